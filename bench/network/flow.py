"""What passes between two guests of one VLAN, with the filter's table and without it.

The guests are namespaces behind veth pairs whose near ends are ports as TAPs are: the same name,
VLAN, address, options and elements, by the product's own code. iperf3 sends; both variants are
measured in each round, every other round in the other order. What a sender gets through in one
second differs by several percent from what it does in the next one, and so there are many rounds.
"""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
from network.namespaces import ip

from bench.network.facts import Rates
from bench.network.ports import BRIDGE, build_bridge, port_spec
from qemu_node.host.process import command
from qemu_node.net.filter.elements import elements
from qemu_node.net.filter.filtertable import FilterTable
from qemu_node.net.filter.nft import Nft
from qemu_node.net.filter.ruleset import FAMILY, TABLE
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.port.bridge import check_bridge
from qemu_node.net.port.bridgeport import join_bridge, open_port

_SENDER, _RECEIVER = 1, 2
_ROUNDS = 21
_DATAGRAM_BYTES = 64
_READY_S = 30.0

# One CPU for the sender, the way through the bridge included, one for the receiver.
_CLIENT = ("iperf3", "--json", "--affinity", "0,1", "--client", "10.0.0.2")
TCP = ("--time", "2", "--omit", "1")
"""Without TCP's slow start."""
UDP = ("--time", "1", "--udp", "--bitrate", "0", "--length", str(_DATAGRAM_BYTES))


class _SetFilter(Protocol):
    """Loads the filter's table, or removes it."""

    def __call__(self, *, is_filtered: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Guests:
    """The guests, and what their frames pass."""

    ports: Sequence[str]
    """The near ends of their cables."""
    namespaces: Sequence[str]
    """What they are, each with its end as eth0."""
    set_filter: _SetFilter


def measure_flow(directory: Path) -> tuple[Rates, Rates]:
    """Return TCP in Mbit/s and datagrams a second; this thread is in a network of its own."""
    with open_guests() as guests, server(directory / "iperf3.log"):

        def rates(read: Callable[[], float]) -> Rates:
            found = Rates(with_table=[], without_table=[])
            for number in range(_ROUNDS):
                for is_filtered in (number % 2 == 0, number % 2 != 0):
                    guests.set_filter(is_filtered=is_filtered)
                    samples = found.with_table if is_filtered else found.without_table
                    samples.append(read())
            return found

        return (
            rates(lambda: tcp_mbit(send(TCP))),
            rates(lambda: udp_packets(send(UDP))),
        )


@contextmanager
def open_guests() -> Generator[Guests]:
    """Build the bridge and both guests."""
    build_bridge()
    specs = [port_spec(_SENDER), port_spec(_RECEIVER)]
    with closing(Nft()) as nft, RouteSocket() as route:
        bridge = check_bridge(route, BRIDGE)
        for number, spec in zip((_SENDER, _RECEIVER), specs, strict=True):
            ip(
                f"""netns add guest{number}
                link add {spec.ifname} type veth peer name eth0 address {spec.mac} \
netns guest{number}"""
            )
            ip(
                f"addr add 10.0.0.{number}/24 dev eth0\nlink set eth0 up",
                namespace=f"guest{number}",
            )
            index = int(Path(f"/sys/class/net/{spec.ifname}/ifindex").read_text())
            join_bridge(route, spec, index, bridge, is_new=True)
            open_port(route, spec, index)
        table = FilterTable(nft)

        def set_filter(*, is_filtered: bool) -> None:
            if not is_filtered:
                if table.read() is not None:
                    nft.run(f"delete table {FAMILY} {TABLE}\n")
                return
            table.load()
            for spec in specs:
                table.add(elements(spec))

        set_filter(is_filtered=True)
        yield Guests(
            ports=[spec.ifname for spec in specs],
            namespaces=[f"guest{number}" for number in (_SENDER, _RECEIVER)],
            set_filter=set_filter,
        )


def _in_guest(number: int, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", f"guest{number}", *argv]


@contextmanager
def server(log: Path) -> Generator[None]:
    """Run iperf3's server in the receiver."""
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        child = command.spawn(
            _in_guest(_RECEIVER, "iperf3", "--server", "--forceflush"), stderr_fd=log_fd
        )
    finally:
        os.close(log_fd)
    try:
        deadline = time.monotonic() + _READY_S
        while "listening" not in log.read_text():
            if child.exit_status() is not None or time.monotonic() > deadline:
                raise OSError(f"iperf3 does not listen: {log.read_text().strip()}")
            time.sleep(0.05)
        yield
    finally:
        child.kill_group()
        while child.exit_status() is None:
            time.sleep(0.01)


def send(options: tuple[str, ...]) -> Mapping[str, Any]:
    """Let the sender send, and return iperf3's report."""
    done = command.run_blocking(_in_guest(_SENDER, *_CLIENT, *options), check=False)
    report: Mapping[str, Any] = msgspec.json.decode(done.stdout)
    if "error" in report:
        raise OSError(f"iperf3: {report['error']}")
    return report


def tcp_mbit(report: Mapping[str, Any]) -> float:
    """Return what arrived of a TCP stream, in Mbit/s."""
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


def udp_packets(report: Mapping[str, Any]) -> float:
    """Return how many datagrams arrived in a second."""
    total = report["end"]["sum"]
    return float(total["packets"] - total["lost_packets"]) / float(total["seconds"])
