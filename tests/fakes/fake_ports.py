"""A `PortManager` without a kernel behind it, which can refuse."""

import asyncio
import os
from collections.abc import Collection, Sequence

from qemu_node.config.network import NetworkConfig
from qemu_node.errors import HostError, NodeError
from qemu_node.net.manager import AttachedPort, PortManager
from qemu_node.net.port.tap import Tap
from qemu_node.net.portspec import PortSpec


class FakePorts(PortManager):
    """Gives out descriptors of /dev/null.

    Args:
        refused: TAPs that cannot be attached.
        undetachable: TAPs that cannot be detached.
        guard_problem: Why guests in user mode cannot be kept from the node.
    """

    def __init__(
        self,
        *,
        refused: Sequence[str] = (),
        undetachable: Sequence[str] = (),
        guard_problem: NodeError | None = None,
    ) -> None:
        super().__init__(NetworkConfig(bridge="br0"), identity="test")
        self._refused = refused
        self._undetachable = undetachable
        self._guard_problem = guard_problem
        self.attached: dict[str, AttachedPort] = {}
        self.live: list[PortSpec] = []
        self.guards: list[bool] = []
        """Whether the guard of user mode was wanted, each time that it was said."""
        self.calls: list[str] = []
        self.reconcile_may_end = asyncio.Event()
        self.reconcile_may_end.set()

    async def attach(self, port: PortSpec) -> AttachedPort:
        if port.ifname in self._refused:
            raise HostError(f"{port.ifname} is refused")
        fds = tuple(os.open("/dev/null", os.O_RDWR) for _ in range(port.queues))
        tap = Tap(ifname=port.ifname, ifindex=7, fds=fds, vhost_fds=())
        self.attached[port.ifname] = AttachedPort(port=port, tap=tap)
        return self.attached[port.ifname]

    async def detach(self, port: PortSpec) -> None:
        if port.ifname in self._undetachable:
            raise HostError(f"{port.ifname} cannot be detached")
        self.calls.append("detach")
        self.attached.pop(port.ifname, None)

    async def guard_host(self) -> None:
        if self._guard_problem is not None:
            raise self._guard_problem
        self.guards.append(True)

    async def unguard_host(self, own_pids: Collection[int]) -> None:
        self.guards.append(False)

    async def reconcile(
        self,
        live: Sequence[PortSpec],
        *,
        has_user_mode: bool = False,
        own_pids: Collection[int] = (),
    ) -> None:
        await self.reconcile_may_end.wait()
        self.calls.append("reconcile")
        self.live = list(live)
        self.guards.append(has_user_mode)
