"""How much longer a stop takes if the VM has ports, compared with destroying their TAPs.

The product's supervisor ends VMs at once: some with several ports, in turns with some that have as
many NICs in user mode, which have no device of the host. Their disks are empty: no guest runs.

The goal is for VMs without vhost-net: QEMU closes the descriptors of vhost-net before it ends, and
each waits for an RCU grace period as well. The driver does not copy them, because whoever has one
keeps the guest's memory.
"""

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from integration.vmnode import VMNode, until

from bench.network.facts import StopTimes
from bench.network.ports import BRIDGE, UPLINK, VLAN, build_bridge, port_spec
from qemu_node.config.network import NetworkConfig
from qemu_node.config.node import Paths
from qemu_node.net.manager import PortManager
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.port.bridge import check_bridge
from qemu_node.net.port.bridgeport import join_bridge, open_port
from qemu_node.net.port.tap import open_tap
from qemu_node.net.portspec import TAP_PREFIX, PortSpec, UserPort
from qemu_node.units import MIB
from qemu_node.vm.vmnetwork import Network

_PAIRS = 8
_NICS = 4


def measure_stops() -> StopTimes:
    """Return the times; this thread is in a network of its own."""
    build_bridge()
    with tempfile.TemporaryDirectory(prefix="qn-bench-") as directory:
        root = Path(directory)
        # VMs run as users of their own and must reach their files.
        root.chmod(0o755)
        image = root / "empty.raw"
        with image.open("wb") as file:
            file.truncate(MIB)
        return asyncio.run(_measure(root, image))


async def _measure(root: Path, image: Path) -> StopTimes:
    times = StopTimes(
        ports=_NICS, with_ports_ms=[], with_vhost_ms=[], without_ports_ms=[], destroy_ms=[]
    )
    async with _node(root, image, "off") as node:
        ports = tuple(node.port(VLAN, index) for index in range(_NICS))
        users = tuple(UserPort(vm_id=one.vm_id, index=one.index, mac=one.mac) for one in ports)
        # The first start finds libraries and firmware on the disk.
        _ = await _stop(node, ports)
        for _ in range(_PAIRS):
            times.with_ports_ms.append(await _stop(node, ports))
            times.without_ports_ms.append(await _stop(node, users))
            times.destroy_ms.append(_destroy())
    async with _node(root, image, "auto") as node:
        for _ in range(_PAIRS):
            times.with_vhost_ms.append(await _stop(node, ports))
    return times


@asynccontextmanager
async def _node(root: Path, image: Path, vhost: Literal["auto", "off"]) -> AsyncGenerator[VMNode]:
    """Give a node on the bridge."""
    config = NetworkConfig(bridge=BRIDGE, uplink=UPLINK, vhost=vhost)
    manager = PortManager(config, identity="test")
    await manager.begin()
    paths = Paths(run=str(root / "r"), data=str(root / "d"))
    node = VMNode(root, image, network=Network(paths, config, manager))
    try:
        yield node
    finally:
        await node.close()
        await manager.aclose()


async def _stop(node: VMNode, nics: tuple[PortSpec | UserPort, ...]) -> float:
    """Start a VM and stop it; return how long the latter took, in milliseconds."""
    vm = await node.start(node.request(nics=nics))
    begin = time.perf_counter()
    await vm.stop(0.0)
    took_s = time.perf_counter() - begin
    await node.supervisor.destroy(vm)
    await until(_taps, lambda left: not left, "end of the TAPs")
    return 1000 * took_s


def _destroy() -> float:
    """Make as many ports and close their TAPs; return how long the latter took."""
    taps = [open_tap(port_spec(number).ifname) for number in range(_NICS)]
    with RouteSocket() as route:
        bridge = check_bridge(route, BRIDGE)
        for number, tap in enumerate(taps):
            join_bridge(route, port_spec(number), tap.ifindex, bridge, is_new=True)
            open_port(route, port_spec(number), tap.ifindex)
    begin = time.perf_counter()
    for tap in taps:
        tap.close()
    return 1000 * (time.perf_counter() - begin)


def _taps() -> list[str]:
    return [name for _, name in socket.if_nameindex() if name.startswith(TAP_PREFIX)]
