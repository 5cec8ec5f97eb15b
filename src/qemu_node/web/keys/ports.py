"""What this room needs of the fleet."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent
from qemu_node.web.fleet.model import VMView


class KeysFleet(Protocol):
    """The VMs of this node."""

    def monitor(self, vm_id: str) -> AbstractAsyncContextManager[QmpConnection]:
        """Lend the daemon's connection to a VM's QEMU; concurrent calls are fine.

        Raises:
            VMNotFoundError: the VM does not run.
            QmpError: QEMU cannot be reached.
        """
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
