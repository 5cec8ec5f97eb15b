"""A fleet as the parts for screens and keys see it, around fake or real QEMUs."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec

from qemu_node.errors import VMNotFoundError
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent
from qemu_node.web.fleet.model import EndView, VMView


class FakeFleet:
    """VMs by vm_id, each with a QMP connection, and what was told to the fleet."""

    def __init__(self) -> None:
        self.vms: dict[str, VMView] = {}
        self.monitors: dict[str, QmpConnection] = {}
        self.records: dict[str, Any] = {}
        self.lent = 0
        """How often a monitor was lent."""
        self.viewers: dict[str, int] = {}
        self.pictures: list[tuple[str, str]] = []
        self._on_begin: list[Callable[[str], object]] = []
        self._on_end: list[Callable[[VMView], object]] = []
        self._on_forget: list[Callable[[str], object]] = []
        self._on_event: list[Callable[[str, QmpEvent], object]] = []

    def get(self, vm_id: str) -> VMView | None:
        return self.vms.get(vm_id)

    def record(self, vm_id: str) -> Any:
        if vm_id not in self.records:
            raise VMNotFoundError(f"VM {vm_id!r} does not run on this node")
        return self.records[vm_id]

    @asynccontextmanager
    async def monitor(self, vm_id: str) -> AsyncIterator[QmpConnection]:
        if vm_id not in self.monitors:
            raise VMNotFoundError(f"VM {vm_id!r} does not run on this node")
        self.lent += 1
        yield self.monitors[vm_id]

    @contextmanager
    def viewing(self, vm_id: str) -> Iterator[None]:
        self.viewers[vm_id] = self.viewers.get(vm_id, 0) + 1
        try:
            yield
        finally:
            self.viewers[vm_id] -= 1

    def set_thumbnail(self, vm_id: str, version: str) -> None:
        self.pictures.append((vm_id, version))

    def on_begin(self, call: Callable[[str], object]) -> None:
        self._on_begin.append(call)
        for vm_id in self.records:
            call(vm_id)

    def on_end(self, call: Callable[[VMView], object]) -> None:
        self._on_end.append(call)

    def on_forget(self, call: Callable[[str], object]) -> None:
        self._on_forget.append(call)

    def on_event(self, call: Callable[[str, QmpEvent], object]) -> None:
        self._on_event.append(call)

    # What happens to the VMs

    def begin(self, view: VMView, record: Any) -> None:
        """Let a VM begin."""
        self.vms[view.vm_id], self.records[view.vm_id] = view, record
        for call in self._on_begin:
            call(view.vm_id)

    def set_state(self, vm_id: str, state: str) -> VMView:
        """Let a VM be in another state."""
        self.vms[vm_id] = msgspec.structs.replace(self.vms[vm_id], state=state)
        return self.vms[vm_id]

    def end(self, vm_id: str, reason: str) -> VMView:
        """Let a VM end."""
        self.monitors.pop(vm_id, None)
        self.records.pop(vm_id, None)
        end = EndView(at="2026-11-30T20:00:00Z", reason=reason)
        view = msgspec.structs.replace(self.vms[vm_id], state="ended", end=end)
        self.vms[vm_id] = view
        for call in self._on_end:
            call(view)
        return view

    def forget(self, vm_id: str) -> None:
        """Let an ended VM be forgotten."""
        del self.vms[vm_id]
        for call in self._on_forget:
            call(vm_id)

    def tell(self, vm_id: str, name: str, **data: object) -> None:
        """Let QEMU report an event."""
        for call in self._on_event:
            call(vm_id, QmpEvent(name=name, data=data))
