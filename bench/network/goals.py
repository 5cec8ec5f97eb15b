"""Goals of the node's network: attaching is quick, no stop waits for a TAP, filtering is cheap.

Attach: `PortManager.attach` of one NIC takes at most 1.5 times what the kernel and libnftables take
by themselves for the same state (`bare`), p50. Stop: a VM with ports is stopped little later
than one without, compared with the destruction of its TAPs. Filter: with the table at least 0.95 of
the TCP and 0.85 of the datagrams of 64 bytes pass that pass without it.

All of it is measured by `inside`: in network namespaces of this machine where its kernel filters
VLANs on bridges, else in the tests' VM.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.network.facts import NetworkRun, WayRates
from bench.rig.node import CannotRunError
from bench.setting import Setting
from bench.table import Figure, Goal
from qemu_node.errors import NodeError
from qemu_node.host.process import command

NAME = "network"

_REPO = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 1500.0
"""The VM's files are built first where they are not there yet."""

_ATTACH_MAX = 1.5
_STOP_MAX = 0.25
_TCP_MIN = 0.95
_UDP_MIN = 0.85

_TOOLS_HERE = {"iperf3": "iperf3", "nft": "nftables", "qemu-system-x86_64": "qemu-system-x86"}
_TOOLS_VM = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "qemu-system-x86_64": "qemu-system-x86",
}
"""Programs, and the Debian packages that they come in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What of this machine decides where the bench runs."""

    is_root: bool
    filters_vlans: bool
    """Its kernel can filter VLANs on a bridge."""
    missing: frozenset[str]
    """Programs that are not installed."""


def program_for(facts: HostFacts) -> str:
    """Return the module to run: what measures here, or what has it done in the VM.

    Raises:
        CannotRunError: this machine can do neither.
    """
    if not facts.is_root:
        raise CannotRunError("network namespaces need root")
    tools = _TOOLS_HERE if facts.filters_vlans else _TOOLS_VM
    for tool, package in tools.items():
        if tool in facts.missing:
            raise CannotRunError(f"{tool} is not installed (apt install {package})")
    return "bench.network.inside" if facts.filters_vlans else "bench.network.vm"


async def measure(_setting: Setting) -> list[Figure]:
    """Return the figures.

    Raises:
        CannotRunError: this machine can neither measure itself nor run the VM.
        NodeError: something broke.
    """
    program = program_for(await _look())
    done = await command.run(
        [sys.executable, "-m", program],
        timeout_s=_TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_REPO / "tests"), *sys.path])},
    )
    return figures(msgspec.json.decode(done.stdout, type=NetworkRun))


async def _look() -> HostFacts:
    tools = {*_TOOLS_HERE, *_TOOLS_VM}
    path = command.SAFE_ENV["PATH"]
    script = (
        "ip link add probe type bridge vlan_filtering 1 && bridge vlan add dev probe vid 2 self"
    )
    try:
        _ = await command.run(["unshare", "--net", "sh", "-c", script])
        filters_vlans = True
    except NodeError:
        filters_vlans = False
    return HostFacts(
        is_root=os.geteuid() == 0,
        filters_vlans=filters_vlans,
        missing=frozenset(tool for tool in tools if shutil.which(tool, path=path) is None),
    )


def figures(run: NetworkRun) -> list[Figure]:
    """Return what was found, with its goals."""
    ports, stops = run.ports, run.stops
    later_ms = _differences(stops.with_ports_ms, stops.without_ports_ms)
    return [
        _figure("attach of one NIC by bare calls", "ms", ports.bare_ms),
        _figure("attach of one NIC", "ms", ports.attach_ms),
        _figure(
            "attach / bare calls",
            "",
            _ratios(ports.attach_ms, ports.bare_ms),
            Goal(at_most=_ATTACH_MAX),
        ),
        _figure("detach of one NIC", "ms", ports.detach_ms),
        _figure(f"destruction of {stops.ports} TAPs", "ms", stops.destroy_ms),
        _figure("stop of a VM without ports", "ms", stops.without_ports_ms),
        _figure(f"stop of a VM with {stops.ports} ports", "ms", stops.with_ports_ms),
        _figure("… and with vhost-net", "ms", stops.with_vhost_ms),
        _figure(
            "a stop's wait for ports / destruction",
            "",
            _ratios(later_ms, stops.destroy_ms),
            Goal(at_most=_STOP_MAX),
        ),
        _figure("TCP without the filter", "Mbit/s", run.tcp_mbit.without_table),
        _figure(
            "TCP with / without",
            "",
            _ratios(run.tcp_mbit.with_table, run.tcp_mbit.without_table),
            Goal(at_least=_TCP_MIN),
        ),
        _figure("UDP, 64 bytes, without the filter", "1/s", run.udp_packets.without_table),
        _figure(
            "UDP with / without",
            "",
            _ratios(run.udp_packets.with_table, run.udp_packets.without_table),
            Goal(at_least=_UDP_MIN),
        ),
        *_compare_ways(run.ways),
    ]


def _compare_ways(ways: Mapping[str, WayRates]) -> Iterator[Figure]:
    """Yield what the ways of `ways` cost, beside the one that finishes nothing."""
    base = ways["offloading"]
    yield _figure("TCP, offloading", "Mbit/s", base.tcp_mbit)
    yield _figure("TCP, offloading: CPU", "s/Gbit", base.tcp_cpu_s)
    yield _figure("UDP, 64 bytes, offloading", "1/s", base.udp_packets)
    for name in ("strict", "plain"):
        way = ways[name]
        yield _figure(f"TCP, {name} / offloading", "", _ratios(way.tcp_mbit, base.tcp_mbit))
        yield _figure(f"… CPU for a Gbit, {name}", "", _ratios(way.tcp_cpu_s, base.tcp_cpu_s))
        yield _figure(f"UDP, {name} / offloading", "", _ratios(way.udp_packets, base.udp_packets))
        yield _figure(f"… CPU for a datagram, {name}", "", _ratios(way.udp_cpu_s, base.udp_cpu_s))


def _figure(what: str, unit: str, samples: Iterable[float], goal: Goal | None = None) -> Figure:
    return Figure(bench=NAME, what=what, unit=unit, samples=tuple(samples), goal=goal)


def _ratios(ours: Iterable[float], others: Iterable[float]) -> list[float]:
    """Return the ratio of each pair, whose two were measured one after the other."""
    return [mine / other for mine, other in zip(ours, others, strict=True)]


def _differences(ours: Iterable[float], others: Iterable[float]) -> list[float]:
    return [mine - other for mine, other in zip(ours, others, strict=True)]
