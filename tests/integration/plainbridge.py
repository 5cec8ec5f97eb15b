"""The ports of a node whose kernel filters no VLANs on bridges: one network for all VMs.

Only for tests on such a kernel. TAPs, descriptors and QEMU's part are the product's; what needs the
missing part of the kernel, VLANs and the filter that goes with them, is left out.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from qemu_node.config.network import NetworkConfig
from qemu_node.net.manager import AttachedPort, PortManager
from qemu_node.net.netlink.messages import add_address, set_master, set_up
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.port.tap import Tap, open_tap
from qemu_node.net.portspec import PortSpec


class PlainBridge(PortManager):
    """A `PortManager` whose bridge keeps nobody apart; it remembers what it was asked."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config, identity="test")
        self._bridge = config.bridge
        self.attached: list[PortSpec] = []
        self.detached: list[PortSpec] = []
        self.calls: list[str] = []
        """What was done, in the order in which it was finished."""
        self.detach_may_end = asyncio.Event()
        self.detach_may_end.set()
        self.reconciled: list[tuple[PortSpec, ...]] = []
        self.drops: dict[str, dict[str, int]] = {}

    async def begin(self) -> None:
        """Load no filter."""

    async def attach(self, port: PortSpec) -> AttachedPort:
        """Open the TAP, once that of the last run is gone, and make it a port of the bridge, up."""
        attached = await super().attach(port)
        self.attached.append(port)
        self.calls.append("attach")
        return attached

    def _attach(self, port: PortSpec) -> Tap:
        tap = open_tap(port.ifname, queues=port.queues)
        with RouteSocket() as route:
            bridge = route.read_bridge(self._bridge)
            assert bridge is not None
            route.do(
                set_master(tap.ifindex, bridge.ifindex, bridge.mtu),
                add_address(tap.ifindex, port.mac),
                set_up(tap.ifindex, is_isolated=port.isolated),
            )
        return tap

    def _forget(self, port: PortSpec) -> None:
        """Do nothing: all there is goes with the TAP."""

    async def detach(self, port: PortSpec) -> None:
        """Note it; the TAP goes with its QEMU."""
        await self.detach_may_end.wait()
        self.detached.append(port)
        self.calls.append("detach")

    async def reconcile(
        self,
        live: Sequence[PortSpec],
        *,
        has_user_mode: bool = False,
        own_pids: Collection[int] = (),
    ) -> None:
        """Note who is said to live."""
        self.reconciled.append(tuple(live))

    async def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Return what a test has put there."""
        return self.drops
