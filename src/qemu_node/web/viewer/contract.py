"""What parts that show a VM to somebody need: of the fleet, and of a viewer's socket.

Owns these contracts, which `Fleet`, `Socket` and `Guard` keep, and what a viewer is told when the
VM ends.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Literal, NoReturn, Protocol

from aiohttp import web

from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent
from qemu_node.vm.record.record import VMRecord
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.fleet.model import VMView

VM_ENDED = 4410
"""Close code: the VM has ended; the reason says why. Connect again when it runs."""

END_KNOWN_S = 2.0
"""How long after QEMU's last byte the fleet may take to know why."""


def why_ended(vm: VMView | None) -> str:
    """Return why a VM has ended, for its viewers; None: the fleet does not know it any more."""
    return "the VM has ended" if vm is None or vm.end is None else vm.end.reason


class VMs(Protocol):
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

    def set_thumbnail(self, vm_id: str, version: str) -> None:
        """Say that a VM has another picture."""
        ...

    def on_begin(self, call: Callable[[str], object]) -> None:
        """Have `call` told the vm_id of every VM that runs, and of every one that begins."""
        ...

    def on_end(self, call: Callable[[VMView], object]) -> None:
        """Have `call` told of every VM that ends."""
        ...

    def on_forget(self, call: Callable[[str], object]) -> None:
        """Have `call` told of every vm_id of which nothing is shown any more."""
        ...

    def on_event(self, call: Callable[[str, QmpEvent], object]) -> None:
        """Have `call` told of every QMP event of every VM."""
        ...


class Viewer(Protocol):
    """A viewer's socket, after all checks."""

    grant: Grant

    @property
    def is_control(self) -> bool:
        """Whether what the viewer sends is for the guest."""
        ...

    async def send(self, data: bytes | str) -> None:
        """Send a frame; return when there is room for the next. It cuts one that is too slow."""
        ...

    def write(self, frame: memoryview) -> bool:
        """Send a binary frame at once; tell whether `frame` may be used again.

        Args:
            frame: `HEAD_BYTES`, which are overwritten, and the payload.
        """
        ...

    @property
    def has_room(self) -> bool:
        """Whether the next frame should be written now, or after `room`."""
        ...

    async def room(self) -> None:
        """Return when there is room for the next frame. It cuts one that is too slow."""
        ...

    async def receive(self) -> bytes | str:
        """Return the next frame."""
        ...

    def fail(self, code: int, reason: str) -> NoReturn:
        """End the socket, from its own handler."""
        ...


class SocketGuard(Protocol):
    """What opens a viewer's socket."""

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
