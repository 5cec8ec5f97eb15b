"""How long attaching one NIC takes, compared with the bare calls, and how long detaching takes.

Each side has a network of its own, equal in all: bridge, uplink, filter and the ports of some VMs.
They cannot share one, because the kernel lets only its owner change the filter. One after the
other and in turns, so that both see the same machine.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager

from network.namespaces import inside, ip

from bench.network.bare import BarePort
from bench.network.facts import PortTimes
from qemu_node.config.network import NetworkConfig
from qemu_node.net.filter.filtertable import FilterTable
from qemu_node.net.filter.nft import Nft
from qemu_node.net.manager import PortManager
from qemu_node.net.portspec import PortSpec, tap_name

BRIDGE, UPLINK = "br0", "up0"
CONFIG = NetworkConfig(bridge=BRIDGE, uplink=UPLINK)
VLAN = 30

_BARE = "bare"
_OTHERS = 20
_PAIRS = 60
_WARM_UP = 5


def build_bridge(namespace: str = "") -> None:
    """Make a bridge that filters VLANs, with an uplink that leads nowhere."""
    ip(
        f"""link add {BRIDGE} type bridge vlan_filtering 1 vlan_default_pvid 0 stp_state 0 \
forward_delay 0 mcast_snooping 0
        link add {UPLINK} type veth peer name outside
        link set {UPLINK} master {BRIDGE}
        link set {UPLINK} up
        link set outside up
        link set {BRIDGE} up""",
        namespace=namespace,
    )


def port_spec(number: int, vlan: int = VLAN) -> PortSpec:
    """Return the plain port of a VM."""
    return PortSpec(
        vm_id=f"vm{number}",
        index=0,
        ifname=tap_name(f"vm{number}", 0),
        mac=f"02:00:00:00:00:{number:02x}",
        vlan=vlan,
    )


def measure_ports() -> PortTimes:
    """Return the times; this thread is in a network of its own, in which there is nothing yet."""
    ip(f"netns add {_BARE}")
    for namespace in ("", _BARE):
        build_bridge(namespace)
    return asyncio.run(_measure())


async def _measure() -> PortTimes:
    times = PortTimes(attach_ms=[], bare_ms=[], detach_ms=[])
    others = [port_spec(number, VLAN + number) for number in range(1, _OTHERS + 1)]
    manager = PortManager(CONFIG, identity="test")
    await manager.begin()
    attached = [await manager.attach(spec) for spec in others]
    with _bare_side(others) as bare_pair:
        for number in range(_WARM_UP + _PAIRS):
            attach_ms, detach_ms = await _pair(manager)
            with inside(_BARE):
                bare_ms = bare_pair()
            if number >= _WARM_UP:
                times.attach_ms.append(attach_ms)
                times.bare_ms.append(bare_ms)
                times.detach_ms.append(detach_ms)
    for port in attached:
        await port.close()
        await manager.detach(port.port)
    await manager.aclose()
    return times


async def _pair(manager: PortManager) -> tuple[float, float]:
    """Attach a port as for a VM and detach it; return both times in milliseconds."""
    spec = port_spec(0)
    begin = time.perf_counter()
    attached = await manager.attach(spec)
    is_up = time.perf_counter()
    await manager.detach(spec)
    end = time.perf_counter()
    await attached.close()
    return 1000 * (is_up - begin), 1000 * (end - is_up)


@contextmanager
def _bare_side(others: Sequence[PortSpec]) -> Generator[Callable[[], float]]:
    """Give what attaches and removes a port by bare calls, and returns how long the first took."""
    with inside(_BARE):
        nft = Nft()
        route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        FilterTable(nft).load()
        ports = [BarePort(spec, BRIDGE, UPLINK) for spec in (*others, port_spec(0))]
        for port in ports[:-1]:
            port.attach(nft, route)

    def pair() -> float:
        begin = time.perf_counter()
        ports[-1].attach(nft, route)
        took_s = time.perf_counter() - begin
        ports[-1].remove(nft, route)
        return 1000 * took_s

    with closing(nft), closing(route):
        yield pair
        with inside(_BARE):
            for port in ports[:-1]:
                port.remove(nft, route)
