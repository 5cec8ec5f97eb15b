"""One running VM: watched, stopped, ended.

Owns a VM from the moment it runs to the removal of its files, through restarts of the driver: it
learns what happens, and carries out what follows from it. Does not own what follows
(`transitions`), its start (`vm.start`), nor which VMs there are (`supervisor`).

A guest that ended leaves its QEMU paused, which says so over QMP whenever it is asked (`ACTIONS` in
`qemu.cmdline`). So no end is lost while no driver is there; the driver that sees it writes it down
and quits QEMU.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from qemu_node.errors import HostError, NodeError
from qemu_node.host.cgroup import Scope
from qemu_node.host.concurrency.flag import Flag
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.process.command import Child
from qemu_node.host.process.identity import ProcessId
from qemu_node.qga.agent import GuestAgent
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent, StatusInfo
from qemu_node.vm.life.control import QemuControl
from qemu_node.vm.life.diskguard import DiskGuard, calls_for_a_look
from qemu_node.vm.life.endings import Endings
from qemu_node.vm.life.stopladder import (
    StopAction,
    StopStep,
    descend,
    plan_quit,
    plan_stop,
    take_step,
)
from qemu_node.vm.life.transitions import (
    Act,
    Event,
    FilesRemoved,
    GuestEnded,
    GuestRuns,
    Life,
    QemuGone,
    StepDue,
    StopBegun,
    StopOver,
    VMPhase,
    WriteEnd,
    advance,
)
from qemu_node.vm.output.vmlogs import VMLogs
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory
from qemu_node.vm.record.outcome import (
    ProcessEnd,
    VMExit,
    describe,
    guest_end_of_event,
    guest_end_of_status,
    judge_process_end,
)
from qemu_node.vm.record.record import VMRecord, VMState
from qemu_node.vm.record.removal import UnkillableError, remove_files
from qemu_node.vm.start.launch import Launched

log = logging.getLogger(__name__)

_QUIT_TIMEOUT_S = 5.0
"""How long QEMU may take to exit by itself when its guest has ended."""


class VM:
    """A VM that this process manages; it holds the VM's lock."""

    def __init__(
        self,
        state: VMState,
        directory: VMDirectory,
        *,
        lock: DirectoryLock | None,
        logs: VMLogs,
        disk: DiskGuard,
        endings: Endings,
        tasks: TaskOwner,
        on_end: Callable[[], object],
    ) -> None:
        """Manage the VM of `state`; `on_end` is called once, when its end is told."""
        self.state = state
        self.directory = directory
        self.life = Life()
        self.agent = GuestAgent(Path(state.record.sockets.qga), directory.qga_lock)
        self.ended_at: float | None = None
        """Unix time at which its end was told."""
        self._lock = lock
        self._logs = logs
        self._disk = disk
        self._endings = endings
        self._on_end = on_end
        self._tasks = tasks
        self._child: Child | None = None
        self._qemu = QemuControl(state.record, self._on_event)
        self._exited = Flag()
        """Its end was told."""
        self._destroying = asyncio.Lock()
        self._settling: asyncio.Task[None] | None = None
        """Cleans up after the VM, once its end is told."""
        self._was_watched = False
        """It ran when this process began to watch it."""
        self._is_watched = False
        """Its process is waited for."""
        self._control: asyncio.Task[None] | None = None
        """Follows what QEMU says of its guest."""
        self._may_be_written = False
        """Its end may be on disk."""
        self._oom_kills_before = self._oom_kills() if state.oom_kills is None else state.oom_kills

    # Starting to watch, and ending

    def run(self, launched: Launched) -> None:
        """Begin to watch the VM that `launched` started."""
        self._child = launched.child
        self._qemu.use(launched.qmp)
        self._begin_watch()
        self.follow()

    def adopt(self) -> None:
        """Begin to watch a VM that an earlier driver started, or report that it has ended.

        Its sockets and vm.json may be gone with a wiped /run; the latter is written again. `follow`
        comes next.
        """
        if not self.state.is_running:
            _ = self._tasks.start(self._conclude(), name=f"conclude {self.directory.vm_id}")
            return
        try:
            if not self.directory.vm_json.exists():
                self.directory.create_run(self.state.uid)
                self.directory.publish(self.state)
        except HostError as exc:
            # Others cannot see the VM then; Nomad must see it nevertheless.
            log.warning("recovered VM is not published", extra=self._fields(exc))
        self._may_be_written = self.directory.exit_file.exists()
        self._begin_watch()

    def follow(self) -> None:
        """Begin to act on what QEMU says of its guest, unless that was begun or QEMU is gone."""
        if self._is_watched and self._control is None:
            name = f"qmp {self.directory.vm_id}"
            self._control = self._tasks.start(self._follow(), name=name)

    async def wait(self) -> VMExit:
        """Return how the VM ended, once it has. Cancelling is harmless."""
        await self._exited.wait()
        assert self.life.end is not None  # what was told
        return self.life.end

    async def stop(self, timeout_s: float) -> None:
        """End the VM within `timeout_s`, gently first, and return once it is gone.

        At once where the guest waits for disk space: it can neither hear nor write. May be called
        again with a shorter timeout while an earlier call is still waiting.

        Raises:
            HostError: the process survived SIGKILL for half a minute.
        """
        if self._exited.is_set():
            return
        self.follow()
        await self._happens(StopBegun())
        try:
            await self._descend(plan_stop(0.0 if self._disk.is_waiting else timeout_s))
        finally:
            # If it is given up, the VM runs on, and what ends it later is not this stop.
            self._note(StopOver())

    async def destroy(self) -> None:
        """Kill the VM if it still runs, remove all of its files and give up its lock. Idempotent.

        Raises:
            HostError: it does not die or its files cannot be removed; call again.
        """
        # One at a time: once the lock is given up, the directory may be another VM's.
        async with self._destroying:
            if self.life.phase is VMPhase.DESTROYED:
                return
            await self.stop(0.0)
            await self.settle()
            await remove_files(self.directory, self.state.uid)
            await self._happens(FilesRemoved())

    async def settle(self) -> None:
        """Return once an ended VM is cleaned up: its last output is in the logs."""
        await self.wait()
        if self._settling is not None:
            await asyncio.wait({self._settling})

    @property
    def record(self) -> VMRecord:
        """What vm.json says."""
        return self.state.record

    @property
    def process(self) -> ProcessId:
        """The VM's QEMU."""
        return self.state.record.process

    @property
    def exit(self) -> VMExit | None:
        """How it ended, or None while it runs."""
        return self.life.end if self._exited.is_set() else None

    # What happens

    async def _happens(self, event: Event) -> None:
        """Go on to the next state and carry out what follows from `event`, in order."""
        self.life, acts = advance(self.life, event)
        for act in acts:
            await self._carry_out(act)

    def _note(self, event: GuestEnded | StopOver) -> None:
        """Go on to the next state; what follows is done by the control task, which looks now."""
        self.life, _ = advance(self.life, event)
        self._qemu.look_again()

    def _begin_watch(self) -> None:
        self._was_watched = self._is_watched = True
        _ = self._tasks.start(self._watch(), name=f"watch {self.directory.vm_id}")

    async def _watch(self) -> None:
        """Follow the VM to its end, whoever its parent is."""
        # The guest's end and the process's are two: this task and `_control` wait for no other.
        try:
            await self._qemu.wait_gone()
        finally:
            self._is_watched = False
            if self._control is not None:
                self._control.cancel()
        await self._conclude()

    async def _follow(self) -> None:
        """Act on what QEMU says of its guest; when that has ended, end QEMU."""
        await self._qemu.follow(self._look, lambda: self.life.phase is not VMPhase.RUNNING)
        # The watch cancels this when QEMU is gone.
        while not self._exited.is_set():
            with contextlib.suppress(UnkillableError):
                await self._descend(plan_quit(grace_s=_QUIT_TIMEOUT_S))

    async def _look(self, qmp: QmpConnection, status: StatusInfo) -> float | None:
        """Act on QEMU's status; return the seconds after which to look again, None: at news."""
        end = guest_end_of_status(status)
        if end is None:
            await self._happens(GuestRuns())
        else:
            self._note(GuestEnded(end))
        return await self._disk.look(qmp, status)

    def _on_event(self, event: QmpEvent) -> None:
        end = guest_end_of_event(event)
        if end is not None:
            self._note(GuestEnded(end))
        elif calls_for_a_look(event):
            self._qemu.look_again()

    async def _descend(self, steps: tuple[StopStep, ...]) -> None:
        await descend(
            steps,
            pid=self.process.pid,
            take=self._take_step,
            until_over=self._exited.wait,
            turn=self._endings.turn,
        )

    async def _take_step(self, action: StopAction) -> None:
        """Take a step of the stop ladder; what fails is left to the next one."""
        log.info("stop step", extra={"step": action.value, "vm_id": self.directory.vm_id})
        try:
            await self._happens(StepDue(action))
        except (NodeError, OSError) as exc:
            self._note_failed_step(exc)
        except Exception as exc:
            log.exception("stop step failed", extra=self._fields(exc))

    def _note_failed_step(self, exc: Exception) -> None:
        log.info("stop step failed", extra=self._fields(exc))

    async def _conclude(self) -> None:
        """Judge how the VM ended, now that its process is gone, and tell it."""
        try:
            gone = await self._judge()
        except Exception as exc:
            # Whatever it was: without an end WaitTask would never return.
            log.exception("end of VM not understood", extra=self._fields(exc))
            reason = f"QEMU ended; the driver failed to see how: {exc}"
            gone = QemuGone(VMExit(exit_code=1, reason=reason))
        await self._happens(gone)

    async def _judge(self) -> QemuGone:
        """Return how the VM ended, of what is known."""
        # Asked for in any case: a child that is not reaped stays in the process table.
        exit_status = None if self._child is None else self._child.exit_status()
        if self.life.end is not None:
            return QemuGone(self.life.end)
        written = await to_the_end(self.directory.read_exit)
        if written is not None:
            return QemuGone(written, is_written=True)
        evidence = ProcessEnd(
            exit_status=exit_status,
            was_watched=self._was_watched,
            is_stopping=self.life.stops > 0,
            oom_kills=self._oom_kills() - self._oom_kills_before,
            last_words=await self._logs.last_words(),
        )
        return QemuGone(judge_process_end(evidence))

    def _oom_kills(self) -> int:
        """Return how often the kernel has killed in the VM's cgroup, over all starts."""
        scope = Scope.find(self.state.scope) if self.state.scope else None
        return 0 if scope is None else scope.oom_kills()

    # What is done then

    async def _carry_out(self, act: Act | WriteEnd | StopAction) -> None:
        match act:
            case WriteEnd(end):
                await self._write_end(end)
            case Act.FORGET_END:
                await self._forget_end()
            case Act.HOLD_TAPS:
                self._qemu.hold_taps()
            case Act.TELL_END:
                self._tell_end()
            case Act.CLEAN_UP:
                name = f"settle {self.directory.vm_id}"
                self._settling = self._tasks.start(self._clean_up(), name=name)
            case Act.RELEASE_LOCK:
                if self._lock is not None:
                    self._lock.release()
            case StopAction():
                await take_step(
                    act,
                    agent=self.agent,
                    control=self._qemu.connection,
                    send_signal=self._qemu.signal,
                    wait_gone=self._exited.wait,
                    failed=self._note_failed_step,
                )

    async def _write_end(self, end: VMExit) -> None:
        self._may_be_written = True
        try:
            await to_the_end(self.directory.write_exit, end)
        except (HostError, OSError) as exc:
            # We still know it ourselves; only a driver that dies right now would not be believed.
            log.warning("end of VM not written down", extra=self._fields(exc))

    async def _forget_end(self) -> None:
        if self._may_be_written:
            self._may_be_written = False
            try:
                await to_the_end(self.directory.exit_file.unlink, missing_ok=True)
            except OSError:
                self._may_be_written = True

    def _tell_end(self) -> None:
        end = self.life.end
        assert end is not None  # the state of a VM whose QEMU is gone
        self.ended_at = time.time()
        fields = {"exit_code": end.exit_code, "reason": end.reason or ""}
        log.info("VM ended", extra={"vm_id": self.directory.vm_id, **fields})
        self._exited.set()
        self._on_end()

    async def _clean_up(self) -> None:
        # Beside the rest: not even the removal of the VM is to wait for the kernel's.
        _ = self._tasks.start(self._qemu.drop_taps(), name=f"taps {self.directory.vm_id}")
        await self._qemu.disconnect()
        await self._logs.finish(f"VM ended: {describe(await self.wait())}")

    def _fields(self, exc: Exception) -> dict[str, str]:
        return {"vm_id": self.directory.vm_id, "error": str(exc)}
