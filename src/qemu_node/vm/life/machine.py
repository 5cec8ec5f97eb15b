"""One running VM: watched, stopped, ended.

Owns a VM from the moment it runs to the removal of its files, through restarts of the driver. Does
not own its start (`launch`), nor which VMs there are (`supervisor`).

    launch/recover ──▶ RUNNING ──(guest ended, QEMU gone)──▶ EXITED ──destroy──▶ DESTROYED
                          └──stop──▶ STOPPING ──────────────────┘

QEMU is run with `-action shutdown=pause,panic=pause`: a guest that ended leaves its QEMU paused,
which says so over QMP whenever it is asked. So no end is lost while no driver is there; the driver
that sees it writes it down and quits QEMU.
"""

import asyncio
import contextlib
import logging
import signal
import time
from enum import StrEnum
from pathlib import Path

from qemu_node.errors import GuestAgentError, HostError, NodeError, QmpError
from qemu_node.host.cgroup import Scope
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.process.command import Child
from qemu_node.host.process.identity import ProcessId
from qemu_node.host.process.pidfd import Hold, close_descriptors, copy_descriptors, send_signal
from qemu_node.net.port.tap import TUN
from qemu_node.qga.agent import GuestAgent
from qemu_node.qmp import commands as qmp_commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent
from qemu_node.vm.life.diskguard import DiskGuard, calls_for_a_look
from qemu_node.vm.life.stop import StopAction, plan_stop
from qemu_node.vm.output.logs import VMLogs
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory
from qemu_node.vm.record.outcome import (
    FORCED_OFF,
    ProcessEnd,
    VMExit,
    describe,
    guest_end_of_event,
    guest_end_of_status,
    judge_process_end,
)
from qemu_node.vm.record.record import VMRecord, VMState
from qemu_node.vm.record.removal import KILL_TIMEOUT_S, UnkillableError, remove_files
from qemu_node.vm.start.launch import Launched

log = logging.getLogger(__name__)

_QUIT_TIMEOUT_S = 5.0
_AGENT_TIMEOUT_S = 5.0
"""How long an agent that may not be there is waited for before the power button is pressed."""

_RUNG_MIN_S = 0.5
"""What a rung of the stop ladder gets though the next is due: QEMU answers within milliseconds."""

_RECONNECT_FIRST_S = 0.5
_RECONNECT_MAX_S = 30.0


class VMPhase(StrEnum):
    """Where a VM is in its life."""

    RUNNING = "running"
    STOPPING = "stopping"
    EXITED = "exited"
    DESTROYED = "destroyed"


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
        tasks: TaskOwner,
    ) -> None:
        self.state = state
        self.directory = directory
        self.phase = VMPhase.RUNNING
        self.agent = GuestAgent(Path(state.record.sockets.qga), directory.qga_lock)
        self._lock = lock
        self._logs = logs
        self._disk = disk
        self._tasks = tasks
        self._child: Child | None = None
        self._qmp: QmpConnection | None = None
        self._taps: list[int] = []
        """Copies of QEMU's TAPs, from when it is told to end."""
        self._guest_end: VMExit | None = None
        self._news = asyncio.Event()
        self.ended_at: float | None = None
        """Unix time of its end, once it is concluded."""
        self._exit: asyncio.Future[VMExit] = asyncio.get_running_loop().create_future()
        self._stops = 0
        """Stops under way."""
        self._hold: Hold | None = None
        """On QEMU, while it is watched."""
        self._destroying = asyncio.Lock()
        self._settling: asyncio.Task[None] | None = None
        """Cleans up after the VM, once its end is reported."""
        self._was_watched = False
        """It ran when this process began to watch it."""
        self._oom_kills_before = self._oom_kills() if state.oom_kills is None else state.oom_kills

    # Life

    def run(self, launched: Launched) -> None:
        """Begin to watch the VM that `launched` started."""
        self._child, self._qmp = launched.child, launched.qmp
        # What happened before this line is found by the watch's first query.
        launched.qmp.listen(self._on_event)
        self._begin_watch()

    def adopt(self) -> None:
        """Begin to watch a VM that an earlier driver started, or report that it has ended.

        Its sockets and vm.json may be gone with a wiped /run; the latter is written again.
        """
        if not self.state.is_running:
            _ = self._tasks.start(self._conclude(), name=f"conclude {self.directory.vm_id}")
            return
        try:
            if not self.directory.vm_json.exists():
                self.directory.create_run(self.state.uid)
                self.directory.publish(self.state)
        except HostError as exc:
            # Others cannot see it then; Nomad must all the same.
            log.warning("recovered VM is not published", extra={"error": str(exc)})
        self._begin_watch()

    async def wait(self) -> VMExit:
        """Return how the VM ended, once it has. Cancelling is harmless."""
        return await asyncio.shield(self._exit)

    async def destroy(self) -> None:
        """Kill the VM if it still runs, remove all of its files and give up its lock. Idempotent.

        Raises:
            HostError: it does not die or its files cannot be removed; call again.
        """
        # One at a time: once the lock is given up, the directory may be another VM's.
        async with self._destroying:
            if self.phase is VMPhase.DESTROYED:
                return
            if not self._exit.done():
                await self.stop(0.0)
            await self.settle()
            await remove_files(self.directory, self.state.uid)
            self.phase = VMPhase.DESTROYED
            if self._lock is not None:
                self._lock.release()

    async def settle(self) -> None:
        """Return once an ended VM is cleaned up: its last output is in the logs."""
        await self.wait()
        if self._settling is not None:
            await asyncio.wait({self._settling})

    # What others may know

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
        return self._exit.result() if self._exit.done() else None

    # Watching

    def _begin_watch(self) -> None:
        _ = self._tasks.start(self._watch(), name=f"watch {self.directory.vm_id}")

    async def _watch(self) -> None:
        """Follow the VM to its end, whoever its parent is."""
        self._was_watched = True
        # The guest's end and the process's are two: neither task waits for the other.
        control = self._tasks.start(self._follow_qmp(), name=f"qmp {self.directory.vm_id}")
        try:
            await self._wait_gone()
        finally:
            control.cancel()
        await self._conclude()

    async def _wait_gone(self) -> None:
        """Return once the process is gone; it is held meanwhile, for signals."""
        while True:
            try:
                with Hold(self.process) as self._hold:
                    await self._hold.wait_gone()
            except OSError as exc:
                # Too many open files: its end is noticed late, not never.
                log.warning("VM is not watched", extra=self._fields(exc))
                await asyncio.sleep(_RECONNECT_FIRST_S)
            else:
                return
            finally:
                self._hold = None

    def _signal(self, signum: signal.Signals) -> None:
        if self._hold is None or not self._hold.send(signum):
            send_signal(self.process, signum)

    async def _follow_qmp(self) -> None:
        """Keep a control connection; when the guest has ended, write it down and quit QEMU.

        Whatever goes wrong is tried again: QEMU stays when its guest has ended, so nobody else
        would notice.
        """
        pause_s = _RECONNECT_FIRST_S
        while True:
            try:
                if self._qmp is None:
                    self._qmp = await QmpConnection.connect(
                        self.directory.run / "qmp.sock", on_event=self._on_event
                    )
                status = await qmp_commands.query_status(self._qmp)
                self._note_end(guest_end_of_status(status))
                await self._drop_false_end()
                pause_s = _RECONNECT_FIRST_S
                await self._until_news(self._qmp, await self._disk.look(self._qmp, status))
                if self._qmp.is_open and self._guest_end is None:
                    continue
            except (NodeError, OSError) as exc:
                log.warning("control socket does not answer", extra=self._fields(exc))
            except Exception as exc:
                log.exception("control connection failed", extra=self._fields(exc))
            if self._guest_end is not None:
                await self._quit_ended_guest(self._guest_end)
                return
            await self._drop_qmp()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RECONNECT_MAX_S)

    def _on_event(self, event: QmpEvent) -> None:
        self._note_end(guest_end_of_event(event))
        if calls_for_a_look(event):
            self._news.set()

    async def _until_news(self, qmp: QmpConnection, limit_s: float | None) -> None:
        """Return when the guest has ended or stopped, the connection is closed, or at the limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await race(self._wait_news(), qmp.wait_closed())

    async def _wait_news(self) -> None:
        await self._news.wait()
        self._news.clear()

    async def _wait_exit(self) -> None:
        await self.wait()

    def _note_end(self, end: VMExit | None) -> None:
        if end is not None and self._guest_end is None:
            self._guest_end = end
            self._news.set()

    async def _drop_false_end(self) -> None:
        """Forget an end written down for a stop that was never finished, now that the guest runs.

        Not before it is seen to run: a QEMU that was told to quit may take seconds to be gone.
        """
        if self.phase is VMPhase.RUNNING and self._guest_end is None:
            with contextlib.suppress(OSError):
                await to_the_end(self.directory.exit_file.unlink, missing_ok=True)

    async def _write_end(self, outcome: VMExit) -> None:
        """Put the end on disk, for a driver that comes after us."""
        try:
            await to_the_end(self.directory.write_exit, outcome)
        except (HostError, OSError) as exc:
            # We still know it ourselves; only a driver that dies right now would not be believed.
            log.warning("end of VM not written down", extra=self._fields(exc))

    async def _quit_ended_guest(self, end: VMExit) -> None:
        """End the QEMU of a guest that has ended; its end is on disk before."""
        await self._write_end(end)
        self._hold_taps()
        try:
            await qmp_commands.quit(self._control())
            await asyncio.sleep(_QUIT_TIMEOUT_S)
        except (NodeError, OSError) as exc:
            log.info("QEMU of an ended guest does not quit", extra=self._fields(exc))
        # Cancelled before this line if QEMU has left, as it does.
        while True:
            with contextlib.suppress(OSError):
                self._signal(signal.SIGKILL)
            await asyncio.sleep(_QUIT_TIMEOUT_S)

    def _hold_taps(self) -> None:
        """Have the VM's TAPs open as well, so that QEMU's end is not theirs.

        Whoever closes a TAP last waits until the kernel has destroyed it, 16 ms and more for each:
        nobody is to wait for a VM's end so much longer.
        """
        queues = sum(port.queues for port in self.record.ports)
        if queues and not self._taps:
            try:
                self._taps = copy_descriptors(self.process, TUN, queues)
            except OSError as exc:
                # QEMU's end waits for the kernel then.
                log.info("TAPs are not taken over", extra=self._fields(exc))

    async def _drop_taps(self) -> None:
        taps, self._taps = self._taps, []
        await to_the_end(close_descriptors, taps)

    async def _drop_qmp(self) -> None:
        qmp, self._qmp = self._qmp, None
        if qmp is not None:
            await qmp.close()

    async def _conclude(self) -> None:
        """Decide how the VM ended, now that its process is gone, and report that first."""
        if self._exit.done():
            return
        try:
            outcome = await self._judge()
        except Exception as exc:
            # Whatever it was: without an end WaitTask would never return.
            log.exception("end of VM not understood", extra=self._fields(exc))
            outcome = VMExit(exit_code=1, reason=f"QEMU ended; the driver failed to see how: {exc}")
        self.phase = VMPhase.EXITED
        self.ended_at = time.time()
        log.info(
            "VM ended",
            extra={
                "vm_id": self.directory.vm_id,
                "exit_code": outcome.exit_code,
                "reason": outcome.reason or "",
            },
        )
        self._exit.set_result(outcome)
        self._settling = self._tasks.start(
            self._settle(outcome), name=f"settle {self.directory.vm_id}"
        )

    async def _judge(self) -> VMExit:
        """Return how the VM ended; it is on disk as well, for a driver that comes after us."""
        # Asked for in any case: a child that is not reaped stays in the process table.
        exit_status = None if self._child is None else self._child.exit_status()
        if self._guest_end is not None:
            return self._guest_end
        written = await to_the_end(self.directory.read_exit)
        if written is not None:
            return written
        outcome = judge_process_end(
            ProcessEnd(
                exit_status=exit_status,
                was_watched=self._was_watched,
                is_stopping=self.phase is VMPhase.STOPPING,
                oom_kills=self._oom_kills() - self._oom_kills_before,
                last_words=await self._logs.last_words(),
            )
        )
        # What we alone know, as its parent, a driver that comes after us has no other way to.
        await self._write_end(outcome)
        return outcome

    async def _settle(self, outcome: VMExit) -> None:
        """Clean up after the VM; its end has been reported."""
        if self._taps:
            # Beside the rest: not even the removal of the VM is to wait for the kernel's.
            _ = self._tasks.start(self._drop_taps(), name=f"taps {self.directory.vm_id}")
        await self._drop_qmp()
        await self._logs.finish(f"VM ended: {describe(outcome)}")

    def _oom_kills(self) -> int:
        """Return how often the kernel has killed in the VM's cgroup, over all starts."""
        scope = Scope.find(self.state.scope) if self.state.scope else None
        return 0 if scope is None else scope.oom_kills()

    # Stopping

    async def stop(self, timeout_s: float) -> None:
        """End the VM within `timeout_s`, gently first, and return once it is gone.

        At once where the guest waits for disk space: it can neither hear nor write. May be called
        again with a shorter timeout while an earlier call is still waiting.

        Raises:
            HostError: the process survived SIGKILL for half a minute.
        """
        if self._exit.done():
            return
        self.phase = VMPhase.STOPPING
        self._stops += 1
        try:
            await self._descend(timeout_s)
        finally:
            self._stops -= 1
            if not self._stops and self.phase is VMPhase.STOPPING:
                # Given up: it runs on, and what ends it later is not this stop.
                self.phase = VMPhase.RUNNING
                self._news.set()

    async def _descend(self, timeout_s: float) -> None:
        """Go down the ladder until the VM is gone."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        steps = plan_stop(0.0 if self._disk.is_waiting else timeout_s, has_agent=True)
        for step, following in zip(steps, (*steps[1:], None), strict=True):
            if await self._gone_within(begin + step.at_s - loop.time()):
                return
            until_s = KILL_TIMEOUT_S if following is None else following.at_s
            limit_s = begin + until_s - loop.time()
            await self._act(step.action, limit_s)
        if not await self._gone_within(KILL_TIMEOUT_S):
            raise UnkillableError(self.process.pid)

    async def _gone_within(self, limit_s: float) -> bool:
        """Tell whether the VM's end is concluded within `limit_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(limit_s, 0.0)):
                await self.wait()
        return self._exit.done()

    async def _act(self, action: StopAction, limit_s: float) -> None:
        """Take one rung; what fails, or takes until the next one is due, is left to that one."""
        log.info("stop step", extra={"step": action.value, "vm_id": self.directory.vm_id})
        try:
            async with asyncio.timeout(max(limit_s, _RUNG_MIN_S)):
                match action:
                    case StopAction.GUEST_AGENT:
                        await self._ask_agent(limit_s)
                    case StopAction.ACPI:
                        await qmp_commands.system_powerdown(self._control())
                    case StopAction.QUIT:
                        await self._write_end(FORCED_OFF)
                        self._hold_taps()
                        await self._quit()
                    case StopAction.KILL:
                        self._hold_taps()
                        self._signal(signal.SIGKILL)
        except (NodeError, OSError) as exc:
            # TimeoutError is an OSError.
            log.info("stop step failed", extra={"step": action.value, **self._fields(exc)})
        except Exception as exc:
            log.exception("stop step failed", extra={"step": action.value, **self._fields(exc)})

    async def _ask_agent(self, limit_s: float) -> None:
        """Ask the guest agent to power off; if it does not answer, press the power button now."""
        try:
            answer_s = min(limit_s, _AGENT_TIMEOUT_S)
            await race(self.agent.shutdown(timeout_s=answer_s), self._wait_exit())
        except GuestAgentError as exc:
            log.info("guest agent cannot shut down", extra={"error": str(exc)})
            await qmp_commands.system_powerdown(self._control())

    async def _quit(self) -> None:
        """Make QEMU leave: by QMP, or by the signal that means the same to it."""
        try:
            await qmp_commands.quit(self._control())
        except QmpError:
            self._signal(signal.SIGTERM)

    def _fields(self, exc: Exception) -> dict[str, str]:
        return {"vm_id": self.directory.vm_id, "error": str(exc)}

    def _control(self) -> QmpConnection:
        if self._qmp is None:
            raise QmpError("QEMU's control socket cannot be reached")
        return self._qmp
