"""All VMs of this node, as they are now: the one object that the console's parts ask.

Owns what is known of each VM and telling whoever follows. It is rebuilt from the run directory
and from QEMU at every start of the daemon; nothing is kept but the VMs that have ended since. Does
not own who may see which VM (`access`).
"""

import asyncio
import contextlib
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Mapping,
)
from dataclasses import replace
from typing import Any, NoReturn, Self

import msgspec

from qemu_node.config.node import Paths
from qemu_node.errors import VMNotFoundError
from qemu_node.host.concurrency.loops import Troubles, repeat
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.files.lock import HeldLocks, held_locks, is_locked
from qemu_node.inventory.state import VMStatus, summarize_of
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.record import VMRecord
from qemu_node.web.fleet.board import Board
from qemu_node.web.fleet.ends import EndedVMs
from qemu_node.web.fleet.follow import Follower
from qemu_node.web.fleet.guests import Ask, GuestAsker, ask_network
from qemu_node.web.fleet.livevm import LiveVM, VMFigures
from qemu_node.web.fleet.model import Delta, VMView

log = logging.getLogger(__name__)

_CHECK_S = 15.0
"""How soon a driver that has gone or come back is noticed."""
_CPU_S = 5.0
_LOCKS_MAX_AGE_S = 0.2
_LEARN_S, _LEARN_TRIES = 0.3, 5
_CONNECTING_MAX = 16


class Fleet:
    """The VMs of this node. For `async with`, in the loop of the daemon.

    `on_begin`, `on_end` and `on_forget` are for parts that keep something of a VM: it runs, it has
    ended and is shown for a day, it is forgotten.
    """

    def __init__(self, paths: Paths, *, ask: Ask = ask_network) -> None:
        """Follow the VMs below `paths`; `ask` asks a guest's agent."""
        self.troubles = Troubles()
        """What does not work at present, for the node's page."""
        self._paths = paths
        self._tasks = TaskOwner("fleet")
        self._vms: dict[str, LiveVM] = {}
        self._others: dict[str, VMStatus] = {}
        self._records: dict[str, VMRecord] = {}
        """Also of VMs that have ended and are shown."""
        self._ended = EndedVMs(self._tell_forgotten)
        self._asker = GuestAsker(on_answer=self._answered, ask=ask)
        self._gate = asyncio.Semaphore(_CONNECTING_MAX)
        self._follower: Follower | None = None
        self._locks = HeldLocks()
        self._locks_at = -1.0
        self._board = Board(self._note_look)
        self._on_begin: list[Callable[[str], object]] = []
        self._on_end: list[Callable[[VMView], object]] = []
        self._on_forget: list[Callable[[str], object]] = []
        self._on_event: list[Callable[[str, QmpEvent], object]] = []

    async def __aenter__(self) -> Self:
        """Look at all VMs, then follow them."""
        self._read_locks(max_age_s=0.0)
        self._follower = Follower(self._paths, self._refresh)
        await self._follower.begin()
        loops = {
            "follow": self._follower.run(),
            "check": self._repeat(self._check, "following the VMs", _CHECK_S),
            "measure": self._repeat(self._measure, "measuring the VMs", _CPU_S),
            "agents": self._asker.ask_agents(),
            "memory": self._asker.ask_memory(),
        }
        for name, loop in loops.items():
            _ = self._tasks.start(loop, name=name)
        return self

    def _repeat(
        self, work: Callable[[], Awaitable[None]], name: str, interval_s: float
    ) -> Coroutine[Any, Any, NoReturn]:
        return repeat(work, name=name, interval_s=interval_s, troubles=self.troubles)

    async def __aexit__(self, *_exc: object) -> None:
        """Let go of all VMs; they go on."""
        if self._follower is not None:
            self._follower.close()
        self._board.close()
        await self._tasks.aclose()
        for vm in self._vms.values():
            vm.close()

    # Asking

    def get(self, vm_id: str) -> VMView | None:
        """Return a VM, also one that has ended lately; None if there is none."""
        view = self._board.views.get(vm_id)
        return None if view is None else self.aged(view)

    def all(self) -> list[VMView]:
        """Return all VMs, by job, group, index and task."""
        return [self.aged(view) for view in sorted(self._board.views.values(), key=_order)]

    def state(self) -> Mapping[str, VMView]:
        """Return all VMs by vm_id, without their ages."""
        return self._board.views

    def aged(self, view: VMView) -> VMView:
        """Return `view` with its ages as they are now: `changes` leaves them out."""
        vm = self._vms.get(view.vm_id)
        if vm is None:
            return view
        answered_s = self._asker.facts(view.vm_id).answered_s
        now_s = asyncio.get_running_loop().time()
        return msgspec.structs.replace(
            view,
            uptime_s=vm.uptime_s(),
            agent_age_s=None if answered_s is None else round(now_s - answered_s, 1),
        )

    def record(self, vm_id: str) -> VMRecord:
        """Return what is written down of a VM that runs.

        Raises:
            VMNotFoundError: there is none, or it has ended.
        """
        return self._live(vm_id).record

    def collect(self) -> list[VMFigures]:
        """Return the figures of all VMs that run, by vm_id; nothing is asked for them.

        From then on, and as long as this is called every few minutes, guests say how much memory
        they use.
        """
        self._asker.note_collection()
        return [
            vm.figures(view, self._asker.facts(vm_id))
            for vm_id, vm in sorted(self._vms.items())
            if (view := self._board.views.get(vm_id)) and view.state != VMStatus.ENDED
        ]

    def last_record(self, vm_id: str) -> VMRecord | None:
        """Return what is, or was, written down of a VM that runs or has ended lately."""
        return self._records.get(vm_id)

    def others(self) -> Mapping[str, VMStatus]:
        """Return what is there and is no published VM: it starts, or cannot be read."""
        return dict(self._others)

    # Following

    def changes(self, idle_s: float | None = None) -> AsyncGenerator[Mapping[str, VMView]]:
        """Yield all VMs by vm_id, without their ages, at first and whenever one has changed.

        Changes that a slow reader has missed come together. As long as somebody follows, the VMs
        are measured more often.

        Args:
            idle_s: Yield also if nothing has changed for so long.
        """
        return self._board.changes(idle_s)

    def subscribe(self) -> AsyncIterator[Delta]:
        """Yield what has changed since the last one; the first one has all VMs."""
        return self._board.deltas()

    def on_begin(self, call: Callable[[str], object]) -> None:
        """Have `call` told the vm_id of every VM that runs, now and later; it must not block."""
        self._on_begin.append(call)
        for vm_id in list(self._vms):
            _safely(call, vm_id)

    def on_end(self, call: Callable[[VMView], object]) -> None:
        """Have `call` told of every VM that ends from now on; it must not block."""
        self._on_end.append(call)

    def on_forget(self, call: Callable[[str], object]) -> None:
        """Have `call` told of every vm_id of which nothing is shown any more."""
        self._on_forget.append(call)

    def on_event(self, call: Callable[[str, QmpEvent], object]) -> None:
        """Have `call` told of every QMP event of every VM, with its vm_id; it must not block."""
        self._on_event.append(call)

    # Using

    @contextlib.asynccontextmanager
    async def monitor(self, vm_id: str) -> AsyncGenerator[QmpConnection]:
        """Lend the daemon's connection to a VM's QEMU; concurrent calls are fine.

        Raises:
            VMNotFoundError: the VM does not run.
            QmpError: QEMU cannot be reached.
        """
        async with self._live(vm_id).monitor.connection() as qmp:
            yield qmp

    @contextlib.contextmanager
    def viewing(self, vm_id: str) -> Generator[None]:
        """Count somebody who looks at a VM's screen or serial port, for the block."""
        # One that runs again is another VM: nobody is counted there who has looked at this one.
        vm = self._vms.get(vm_id)
        self._count_viewer(vm, 1)
        try:
            yield
        finally:
            self._count_viewer(vm, -1)

    def set_thumbnail(self, vm_id: str, version: str) -> None:
        """Say that a VM has another picture; `version` names it."""
        if (vm := self._vms.get(vm_id)) is not None:
            vm.thumbnail = version
            self._show(vm)

    def set_stop_error(self, vm_id: str, words: str) -> None:
        """Say why a VM was not stopped; empty: it is being stopped."""
        if (vm := self._vms.get(vm_id)) is not None:
            vm.stop_error = words
            self._show(vm)

    # What changes

    def _live(self, vm_id: str) -> LiveVM:
        vm = self._vms.get(vm_id)
        if vm is None:
            raise VMNotFoundError(f"VM {vm_id!r} does not run on this node")
        return vm

    def _note_look(self) -> None:
        self._asker.look(is_looked_at=self._board.is_looked_at)

    def _count_viewer(self, vm: LiveVM | None, step: int) -> None:
        if vm is not None:
            vm.viewers += step
            if self._vms.get(vm.record.vm_id) is vm:
                self._show(vm)

    def _refresh(self, vm_id: str) -> None:
        """Look at one VM's files."""
        known = self._vms.get(vm_id)
        # Made once for each VM: with hundreds of them that is what costs most here.
        directory = VMDirectory.of(self._paths, vm_id) if known is None else known.directory
        summary = summarize_of(directory, self._locks)
        if summary.status in (VMStatus.UNMANAGED, VMStatus.ORPHAN) and self._read_locks():
            summary = summarize_of(directory, self._locks)
        record = summary.record
        if known is not None and summary.status is VMStatus.UNREADABLE and known.is_alive:
            # A newer driver may have written it.
            known.summary = replace(known.summary, status=summary.status)
            self._show(known)
            return
        if known is not None and (record is None or record.process != known.record.process):
            self._end(known)
            known = None
        self._others.pop(vm_id, None)
        if record is None:
            if directory.run.exists():
                self._others[vm_id] = summary.status
            return
        if known is None:
            if summary.pid is None and vm_id in self._board.views:
                return
            known = self._begin(record)
            self._asker.follow(summary, known.monitor)
        known.summary = summary
        if summary.pid is None:
            self._end(known)
        else:
            self._show(known)

    def _begin(self, record: VMRecord) -> LiveVM:
        """Follow a VM that is new here."""
        vm = LiveVM(
            record,
            paths=self._paths,
            gate=self._gate,
            on_change=self._monitor_changed,
            on_event=self._tell_event,
            on_gone=self._gone,
        )
        self._vms[record.vm_id] = vm
        self._records[record.vm_id] = record
        self._ended.discard(record.vm_id)
        vm.following = self._tasks.start(vm.monitor.run(), name=f"monitor {record.vm_id}")
        for call in self._on_begin:
            _safely(call, record.vm_id)
        return vm

    def _monitor_changed(self, vm: LiveVM) -> None:
        if self._vms.get(vm.record.vm_id) is vm:
            self._show(vm)

    def _answered(self, vm_id: str) -> None:
        if (vm := self._vms.get(vm_id)) is not None:
            self._show(vm)

    def _gone(self, vm: LiveVM) -> None:
        if self._vms.get(vm.record.vm_id) is vm:
            self._end(vm)

    def _end(self, vm: LiveVM) -> None:
        """A VM has ended: remember how."""
        vm_id = vm.record.vm_id
        # Before anything can fail: its pidfd would be ready for ever.
        vm.close()
        view = vm.ended_view(self._asker.facts(vm_id))
        del self._vms[vm_id]
        self._asker.forget(vm_id)
        self._ended.add(view, asyncio.get_running_loop().time())
        self._board.put(view)
        for call in self._on_end:
            _safely(call, view)
        if vm.monitor.state.end is None:
            _ = self._tasks.start(self._learn_end(vm, view), name=f"learn end of {vm_id}")

    async def _learn_end(self, vm: LiveVM, view: VMView) -> None:
        """Look for what the driver writes down of a QEMU that ended by itself."""
        for _ in range(_LEARN_TRIES):
            await asyncio.sleep(_LEARN_S)
            end = vm.end()
            if self._board.views.get(view.vm_id) is not view:
                return
            if end != view.end:
                known = msgspec.structs.replace(view, end=end)
                self._ended.add(known, asyncio.get_running_loop().time())
                self._board.put(known)
                return

    def _show(self, vm: LiveVM) -> None:
        """Tell how a VM is now, if that is another state than before."""
        self._board.put(vm.view(self._asker.facts(vm.record.vm_id)))

    def _tell_forgotten(self, vm_id: str) -> None:
        if vm_id not in self._vms:
            self._records.pop(vm_id, None)
            self._board.drop(vm_id)
            for call in self._on_forget:
                _safely(call, vm_id)

    def _tell_event(self, vm_id: str, event: QmpEvent) -> None:
        for call in self._on_event:
            _safely(call, vm_id, event)

    def _read_locks(self, *, max_age_s: float = _LOCKS_MAX_AGE_S) -> bool:
        """Read the held locks again if they are older than `max_age_s`; tell whether it was done.

        With hundreds of VMs that takes milliseconds, and all of them may appear at once.
        """
        now_s = asyncio.get_running_loop().time()
        if now_s - self._locks_at < max_age_s:
            return False
        self._locks, self._locks_at = held_locks(), now_s
        return True

    # What is looked at from time to time

    async def _check(self) -> None:
        """Notice drivers that have gone or come back, and what no event has told."""
        self._ended.forget_old(asyncio.get_running_loop().time())
        self._read_locks(max_age_s=0.0)
        for vm_id, vm in list(self._vms.items()):
            is_managed = is_locked(vm.directory.data, self._locks) is not False
            was_managed = vm.summary.status is not VMStatus.UNMANAGED
            if is_managed != was_managed or not vm.is_alive:
                self._refresh(vm_id)
                await asyncio.sleep(0)

    async def _measure(self) -> None:
        """While somebody looks, measure the CPU use of each VM."""
        if self._board.is_looked_at:
            for vm in list(self._vms.values()):
                if vm.measure():
                    self._show(vm)


def _order(view: VMView) -> tuple[str, str, str, int, str, str]:
    index = -1 if view.index is None else view.index
    return (view.namespace, view.job, view.group, index, view.task, view.vm_id)


def _safely(call: Callable[..., object], *arguments: object) -> None:
    """Call a part of the console; its bug is not ours."""
    try:
        call(*arguments)
    except Exception:
        log.exception("a part of the console failed")
