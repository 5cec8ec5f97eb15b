"""What this room needs of the fleet, of the log and of a viewer's socket."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Literal, NoReturn, Protocol

from aiohttp import web

from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.record.record import VMRecord
from qemu_node.web.access.grant import Grant
from qemu_node.web.fleet.model import VMView

ReadLog = Callable[[VMView, Grant], Awaitable[bytes]]
"""Returns the end of a VM's log, as whoever has the grant may read it. Raises `NodeError`."""


class SerialFleet(Protocol):
    """The VMs of this node."""

    def get(self, vm_id: str) -> VMView | None:
        """Return a VM, also one that has ended lately; None if there is none."""
        ...

    def record(self, vm_id: str) -> VMRecord:
        """Return what is written down of a VM that runs.

        Raises:
            VMNotFoundError: there is none, or it has ended.
        """
        ...

    def monitor(self, vm_id: str) -> AbstractAsyncContextManager[QmpConnection]:
        """Lend the daemon's connection to a VM's QEMU; concurrent calls are fine.

        Raises:
            VMNotFoundError: the VM does not run.
            QmpError: QEMU cannot be reached.
        """
        ...

    def viewing(self, vm_id: str) -> AbstractContextManager[None]:
        """Count somebody who looks at a VM, for the block."""
        ...

    def on_begin(self, call: Callable[[str], object]) -> None:
        """Have `call` told the vm_id of every VM that runs, and of every one that begins."""
        ...

    def on_end(self, call: Callable[[VMView], object]) -> None:
        """Have `call` told of every VM that ends."""
        ...


class Viewer(Protocol):
    """A viewer's socket, after all checks: `access.sockets.Socket`."""

    grant: Grant

    @property
    def is_control(self) -> bool:
        """Whether what the viewer sends is for the guest."""
        ...

    async def send(self, data: bytes | str) -> None:
        """Send a frame; return when there is room for the next."""
        ...

    async def receive(self) -> bytes | str:
        """Return the next frame."""
        ...

    def fail(self, code: int, reason: str) -> NoReturn:
        """End the socket, from its own handler."""
        ...


class SocketGuard(Protocol):
    """What opens a viewer's socket: `access.guard.Guard`."""

    async def socket(
        self,
        request: web.Request,
        grant: Any,
        vm: VMView,
        *,
        kind: Literal["screen", "serial"],
        serve: Callable[[Any], Awaitable[object]],
    ) -> web.WebSocketResponse:
        """Open the socket after a good ticket, serve it, return when it has ended."""
        ...
