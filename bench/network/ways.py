"""What it costs that a guest's checksums are finished before the filter, in three ways.

- *offloading*: nobody does. What a guest leaves to others is done by the last device, if at all.
- *strict*: as `PortSpec.strict` does it. Guests still hand over, and get, large segments.
- *plain*: a TAP without a virtio-net header. Guests finish and cut by themselves, both ways. That
  each of their frames is then handed over alone, by QEMU or vhost-net, is not in these figures.

The guests are those of `flow`. Each round measures all ways, one after the other.
"""

import fcntl
import socket
import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from network.namespaces import inside

from bench.network.facts import WayRates
from bench.network.flow import TCP, UDP, Guests, open_guests, send, server, tcp_mbit, udp_packets
from qemu_node.net.errors import NetworkError
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.netlink.traffic import forget_redirect, redirect
from qemu_node.net.port.checksums import ensure_device

OFFLOADING, STRICT, PLAIN = "offloading", "strict", "plain"
_WAYS = (OFFLOADING, STRICT, PLAIN)
_ROUNDS = 7
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17  # linux/sockios.h, linux/ethtool.h
_IDLE = slice(3, 5)
"""Of the first line of /proc/stat: idle and iowait (man 5 proc_stat)."""


def measure_ways(directory: Path) -> dict[str, WayRates]:
    """Return the rates of each way; this thread is in a network of its own."""
    found = {
        way: WayRates(tcp_mbit=[], tcp_cpu_s=[], udp_packets=[], udp_cpu_s=[]) for way in _WAYS
    }
    with open_guests() as guests, server(directory / "iperf3.log"):
        guests.set_filter(is_filtered=True)
        for number in range(_ROUNDS):
            for way in _WAYS[:: 1 if number % 2 else -1]:
                with _way(guests, way):
                    rates = found[way]
                    busy_s = _busy_s()
                    report = send(TCP)
                    mbit = tcp_mbit(report)
                    gbit = mbit / 1000 * report["end"]["sum_received"]["seconds"]
                    rates.tcp_mbit.append(mbit)
                    rates.tcp_cpu_s.append((_busy_s() - busy_s) / gbit)
                    busy_s = _busy_s()
                    report = send(UDP)
                    packets = udp_packets(report)
                    rates.udp_packets.append(packets)
                    arrived = packets * report["end"]["sum"]["seconds"]
                    rates.udp_cpu_s.append((_busy_s() - busy_s) / (arrived / 1e6))
    return found


@contextmanager
def _way(guests: Guests, way: str) -> Iterator[None]:
    """Let frames go one of the ways."""
    with RouteSocket() as route:
        ports = [socket.if_nametoindex(name) for name in guests.ports]
        if way == STRICT:
            device = ensure_device(route)
            for port in ports:
                route.do(*redirect(port, device))
        if way == PLAIN:
            _set_offload(guests, is_on=False)
        try:
            yield
        finally:
            for port in ports:
                with suppress(NetworkError):
                    route.do(forget_redirect(port))
            _set_offload(guests, is_on=True)


def _set_offload(guests: Guests, *, is_on: bool) -> None:
    """Let both ends of all guests' cables take unfinished frames, or none."""
    for name in guests.ports:
        _set_checksums(name, is_on=is_on)
    for namespace in guests.namespaces:
        with inside(namespace):
            _set_checksums("eth0", is_on=is_on)


def _set_checksums(ifname: str, *, is_on: bool) -> None:
    words = array("I", (_ETHTOOL_STXCSUM, is_on))
    request = struct.pack("16sP", ifname.encode(), words.buffer_info()[0]).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)


def _busy_s() -> float:
    """Return the time that all CPUs have worked."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - sum(ticks[_IDLE])) / 100
