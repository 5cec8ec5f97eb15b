"""One run of a job's VMs: start all, watch, wait, stop, clean up.

Owns the order of the steps and what counts as a failure. Does not own the driver's process
(`runner`), nor how events are shown (`cli.runview`). A VM that has ended is not restarted.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.inventory.access import reachable_address
from qemu_node.inventory.consolelog import ConsoleLog
from qemu_node.run.allocation.placement import Placement
from qemu_node.run.allocation.taskconfig import prepare_task
from qemu_node.run.driverlink import DriverInfo, DriverLink, TaskEnd
from qemu_node.run.guestwatch import AgentWatch, GuestFacts
from qemu_node.run.logtail import LogTail
from qemu_node.run.runevents import EventKind, RunEvent
from qemu_node.vm.record.record import StateError, VMRecord, read_record

T = TypeVar("T")

_LOG_POLL_S = 0.3
_STOP_GRACE_S = 5.0
"""How long StopTask may take to return once WaitTask has reported the VM's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """What the operator chose."""

    exit_when_ready: bool = False
    """Stop all VMs, and succeed, when every guest agent has answered."""
    ready_timeout_s: float | None = None
    """Fail if a guest agent has not answered after this time; None: wait without a limit."""
    show_logs: bool = False
    console_every_s: float = 10.0
    """Pause between two looks at the console of a guest whose agent has not answered yet."""
    poll_s: float = 1.0
    """Pause between two looks at a guest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """How a session ended."""

    failed: tuple[str, ...]
    """The VMs that did not start, or ended with an error, or were not ready in time."""
    was_forced: bool
    """It was asked to stop twice."""


class Session:
    """Runs placements to their end. `request_stop` may be called at any time."""

    def __init__(
        self,
        driver: DriverLink,
        placements: Sequence[Placement],
        *,
        session_dir: Path,
        node_id: str,
        vm_run_dir: Path,
        watch: Callable[[VMRecord], AgentWatch],
        on_event: Callable[[RunEvent], None],
        options: SessionOptions,
    ) -> None:
        self._driver = driver
        self._placements = placements
        self._session_dir = session_dir
        self._node_id = node_id
        self._vm_run_dir = vm_run_dir
        self._watch = watch
        self._on_event = on_event
        self._options = options
        self._stop = asyncio.Event()
        self._forced_stop = asyncio.Event()
        self._ready: set[str] = set()
        self._failed: dict[str, None] = {}  # an ordered set
        self._consoles: dict[str, str] = {}
        """The line of each VM's console that was shown last."""

    def request_stop(self) -> None:
        """Stop all VMs within their kill_timeout. A second call stops them at once."""
        if self._stop.is_set():
            self._forced_stop.set()
        self._stop.set()

    async def run(self) -> SessionResult:
        """Run until every VM has ended.

        Raises:
            NodeError: the driver cannot start VMs; none was started.
        """
        info = await self._unless_stopped(self._driver.begin())
        if info is not None:
            self._emit(EventKind.NODE, info.health or "the driver is ready", None,
                       attributes=info.facts.attributes)  # fmt: skip
            async with (
                _helpers(self._pump_events(), self._watch_clock()),
                asyncio.TaskGroup() as group,
            ):
                for placement in self._placements:
                    group.create_task(self._run_vm(placement, info))
        return SessionResult(failed=tuple(self._failed), was_forced=self._forced_stop.is_set())

    async def _run_vm(self, placement: Placement, info: DriverInfo) -> None:
        try:
            vm_id = await self._start(placement, info)
            if vm_id is None:
                self._emit(EventKind.EXITED, "stopped before it ran", placement.vm)
            else:
                self._judge(placement, await self._follow_vm(placement, vm_id))
        except NodeError as exc:
            self._fail(placement.vm, exc.explain().removeprefix("vm: "))
        finally:
            with contextlib.suppress(NodeError):
                await self._driver.destroy(placement.task_id)

    async def _start(self, placement: Placement, info: DriverInfo) -> str | None:
        """Start the VM and return its vm_id; None if a stop was requested first."""
        if self._stop.is_set():
            return None
        self._emit(EventKind.STEP, "preparing", placement.vm)
        task = await asyncio.to_thread(
            prepare_task, placement, info.facts, session=self._session_dir, node_id=self._node_id
        )
        self._emit(EventKind.STEP, "starting", placement.vm)
        vm_id = await self._unless_stopped(self._driver.start(task))
        if vm_id is None:
            # The call was cancelled, but the driver may have started the VM.
            await self._driver.stop(placement.task_id, 0, "")
        return vm_id

    async def _follow_vm(self, placement: Placement, vm_id: str) -> TaskEnd:
        """Watch a running VM until it has ended."""
        record = self._read_record(vm_id)
        self._emit(
            EventKind.RUNNING,
            "waiting for its guest agent",
            placement.vm,
            vm_id=vm_id,
            pid=record.pid if record is not None else None,
            address=reachable_address(record) if record is not None else "",
        )
        alloc_dir = self._session_dir / "alloc" / placement.alloc_id
        tail = LogTail(ConsoleLog(alloc_dir, placement.task.name))
        follow = self._follow_logs if self._options.show_logs else self._follow_console
        helpers = [follow(placement, tail)]
        if record is not None:
            helpers.append(self._watch_guest(placement, record))
        async with _helpers(*helpers), asyncio.TaskGroup() as group:
            stopper = group.create_task(self._stop_when_asked(placement))
            end = await self._wait(placement)
            if self._stop.is_set():
                await asyncio.wait({stopper}, timeout=_STOP_GRACE_S)
            stopper.cancel()
        if self._options.show_logs:
            # The driver writes the last lines after the VM has ended, before DestroyTask returns.
            with contextlib.suppress(NodeError):
                await self._driver.destroy(placement.task_id)
            self._emit_lines(placement, tail.flush())
        return end

    async def _wait(self, placement: Placement) -> TaskEnd:
        try:
            return await self._driver.wait(placement.task_id)
        except NodeError as exc:
            return TaskEnd(
                exit_code=1, reason=f"the driver cannot say how the VM ended: {exc.explain()}"
            )

    async def _stop_when_asked(self, placement: Placement) -> None:
        await self._stop.wait()
        limit_s = placement.task.kill_timeout_s
        self._emit(EventKind.STOPPING, f"shutting down, at most {limit_s:g} s", placement.vm)
        async with _helpers(self._force_when_asked(placement)):
            is_stopped = await self._stop_vm(placement, limit_s)
        if not is_stopped:
            await self._force_when_asked(placement)

    async def _force_when_asked(self, placement: Placement) -> None:
        await self._forced_stop.wait()
        self._emit(EventKind.STOPPING, "waiting for QEMU to end", placement.vm)
        await self._stop_vm(placement, 0)

    async def _stop_vm(self, placement: Placement, timeout_s: float) -> bool:
        try:
            await self._driver.stop(placement.task_id, timeout_s, placement.task.kill_signal)
        except NodeError as exc:
            self._emit(EventKind.NOTE, f"stopping failed: {exc.explain()}", placement.vm)
            return False
        return True

    async def _watch_guest(self, placement: Placement, record: VMRecord) -> None:
        watch = self._watch(record)
        known: GuestFacts | None = None
        while True:
            # A stop cancels this at once: the driver then needs the guest agent itself.
            facts = await self._unless_stopped(watch.look())
            if self._stop.is_set():
                return
            if facts is not None and facts != known:
                self._emit(
                    EventKind.READY,
                    f"the guest agent of {facts.host_name} answers",
                    placement.vm,
                    host_name=facts.host_name,
                    addresses=list(facts.addresses),
                    address=reachable_address(record, facts.addresses),
                    secure_boot=facts.secure_boot,
                )
                self._count_ready(placement.vm)
            elif facts is None and known is not None:
                self._emit(EventKind.SILENT, "the guest agent no longer answers", placement.vm)
            known = facts
            await self._unless_stopped(asyncio.sleep(self._options.poll_s))

    def _count_ready(self, vm: str) -> None:
        self._ready.add(vm)
        if self._options.exit_when_ready and len(self._ready) == len(self._placements):
            self._stop.set()

    async def _watch_clock(self) -> None:
        timeout_s = self._options.ready_timeout_s
        if timeout_s is None:
            return
        await asyncio.sleep(timeout_s)
        for placement in self._placements:
            if placement.vm not in self._ready and placement.vm not in self._failed:
                self._failed[placement.vm] = None
                message = f"its guest agent has not answered within {timeout_s:g} s"
                if console := self._consoles.get(placement.vm):
                    message += f"; its console: {console}"
                self._emit(EventKind.NOTE, message, placement.vm)
        if self._failed:
            self._stop.set()

    async def _pump_events(self) -> None:
        names = {(p.alloc_id, p.task.name): p.vm for p in self._placements}
        # If the driver is gone, the wait for each VM says so.
        with contextlib.suppress(NodeError):
            async for event in self._driver.events():
                vm = names.get((event.alloc_id, event.task_name))
                if vm is not None:
                    self._emit(EventKind.STEP, event.message, vm, percent=event.percent)

    async def _follow_logs(self, placement: Placement, tail: LogTail) -> None:
        while True:
            self._emit_lines(placement, tail.read_lines())
            await asyncio.sleep(_LOG_POLL_S)

    async def _follow_console(self, placement: Placement, tail: LogTail) -> None:
        """Emit the last line of the console while the guest boots or shuts down."""
        while True:
            await asyncio.sleep(self._options.console_every_s)
            line = tail.last_line()
            is_of_use = placement.vm not in self._ready or self._stop.is_set()
            if is_of_use and line and line != self._consoles.get(placement.vm):
                self._consoles[placement.vm] = line
                self._emit(EventKind.CONSOLE, line, placement.vm)

    def _emit_lines(self, placement: Placement, lines: Sequence[str]) -> None:
        for line in lines:
            self._emit(EventKind.LOG, line, placement.vm)

    def _judge(self, placement: Placement, end: TaskEnd) -> None:
        details = {"exit_code": end.exit_code, "signal": end.signal, "oom_killed": end.oom_killed}
        if not end.is_failure:
            was_asked = self._stop.is_set()
            message = "stopped" if was_asked else "powered off"
        elif self._stop.is_set() and end.signal and not end.reason:
            # A VM that was killed because it did not shut down in time has not failed.
            message = "stopped by force"
        else:
            self._fail(placement.vm, end.describe(), **details)
            return
        self._emit(EventKind.EXITED, message, placement.vm, **details)
        if self._options.exit_when_ready and placement.vm not in self._ready:
            self._fail(placement.vm, "it ended before its guest agent answered")

    def _fail(self, vm: str, message: str, **details: object) -> None:
        self._failed[vm] = None
        self._emit(EventKind.FAILED, message, vm, **details)
        if self._options.exit_when_ready:
            self._stop.set()

    async def _unless_stopped(self, work: Coroutine[object, object, T]) -> T | None:
        """Return the result of `work`, or None, and `work` cancelled, once a stop is requested."""
        which_and_outcome: tuple[int, T | None] = await race(work, self._stopped())
        return which_and_outcome[1]

    async def _stopped(self) -> None:
        await self._stop.wait()

    def _read_record(self, vm_id: str) -> VMRecord | None:
        try:
            return read_record(self._vm_run_dir / vm_id / "vm.json")
        except StateError as exc:
            self._emit(EventKind.NOTE, f"the guest cannot be watched: {exc}", None)
            return None

    def _emit(self, kind: EventKind, message: str, vm: str | None, **details: object) -> None:
        given = {name: value for name, value in details.items() if value is not None}
        self._on_event(RunEvent(kind=kind, message=message, vm=vm, details=given))


@contextlib.asynccontextmanager
async def _helpers(*work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run `work` beside the block and cancel it at the block's end."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(item) for item in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
