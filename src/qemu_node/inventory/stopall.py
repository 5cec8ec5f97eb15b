"""Ending all VMs of this node at once, before it goes down.

Owns which VMs these are, one pass over all of them within one time limit, and what is written down
so that such an end does not count as the task's own. Needs no driver and no agent, and leaves no
QEMU behind: a guest that is off is not kept for a driver, as `stop` does. Does not own the ladder
(`vm.life.stopladder`) nor what a driver makes of it later (`vm.supervisor`).
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

from qemu_node.config.node import Paths
from qemu_node.errors import NodeError, QmpError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.lock import held_locks, is_locked
from qemu_node.host.limits import raise_open_files_limit
from qemu_node.host.process.identity import ProcessId, is_alive
from qemu_node.host.process.pidfd import Hold
from qemu_node.inventory.access import another_users
from qemu_node.qga.agent import GuestAgent
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent
from qemu_node.vm.life.stopladder import (
    StopAction,
    StopStep,
    descend,
    plan_quit,
    plan_stop,
    take_step,
)
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory, visible_vm_ids
from qemu_node.vm.record.outcome import VMExit, guest_end_of_event, guest_end_of_status
from qemu_node.vm.record.processes import find_vm_processes
from qemu_node.vm.record.record import (
    RecordHeader,
    StateError,
    VMRecord,
    read_record,
    read_record_header,
)

_MONITOR_TIMEOUT_S = 3.0
_RECONNECT_S = 0.5
_PASSES_MAX = 5
"""Who starts VMs meanwhile may go on for ever."""
_DRIVER_GRACE_S = 2.0
"""How long a driver that runs gets to end the QEMU of a guest that had ended by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVM:
    """A VM whose QEMU runs, and how others than its driver reach it."""

    directory: VMDirectory
    process: ProcessId
    name: str
    monitor: Path | None
    """None: it is not published, so its guest cannot be asked."""
    agent: GuestAgent | None
    is_managed: bool
    """A driver holds it, sees its end and reports that to Nomad."""

    @property
    def vm_id(self) -> str:
        """Its id on this node."""
        return self.directory.vm_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one VM came to its end, or that it did not."""

    vm: LiveVM
    action: StopAction | None
    """The last thing tried before the guest or QEMU ended; None: the guest had ended by itself."""
    problem: str | None = None
    """Why it still runs."""


Tell = Callable[[str], None]


def find_live_vms(paths: Paths) -> list[LiveVM]:
    """Return every VM of which a process runs, published or not, ordered by id.

    Looks at every process of the host: not for the event loop.

    Raises:
        HostError: they cannot be listed.
    """
    locks = held_locks()
    found: dict[str, LiveVM] = {}
    for vm_id in visible_vm_ids(paths):
        directory = VMDirectory.of(paths, vm_id)
        vm = _published(directory, is_managed=is_locked(directory.data, locks) is True)
        if vm is not None and is_alive(vm.process):
            found[vm_id] = vm
    for vm_id, process in find_vm_processes(paths.vm_data_dir):
        if vm_id not in found:
            found[vm_id] = LiveVM(
                directory=VMDirectory.of(paths, vm_id),
                process=process,
                name=vm_id,
                monitor=None,
                agent=None,
                is_managed=False,
            )
    return [found[vm_id] for vm_id in sorted(found)]


def _published(directory: VMDirectory, *, is_managed: bool) -> LiveVM | None:
    """Return what vm.json says, also one of a newer driver."""
    record: VMRecord | None = None
    header: RecordHeader | None
    try:
        header = record = read_record(directory.vm_json)
    except StateError:
        header = read_record_header(directory.vm_json)
    if header is None:
        return None
    sockets = directory.socket_paths() if record is None else record.sockets
    lock = directory.qga_lock if record is None else Path(record.qga_lock)
    return LiveVM(
        directory=directory,
        process=header.process,
        name=directory.vm_id if record is None else record.display_name,
        monitor=Path(sockets.monitor),
        agent=GuestAgent(Path(sockets.qga), lock),
        is_managed=is_managed,
    )


async def stop_all(paths: Paths, timeout_s: float, tell: Tell) -> list[Ended]:
    """End every VM of this node, all at once; return how each ended.

    Each guest has `timeout_s`, as with `plan_stop`; a QEMU that survives SIGKILL is waited for half
    a minute more. VMs that appear meanwhile are ended as well.

    Args:
        paths: Where the VMs are.
        timeout_s: What the guests get before force is used.
        tell: Receives a line for each VM that has ended, and for what did not work.

    Raises:
        HostError: the VMs cannot be listed.
    """
    raise_open_files_limit()
    ended: dict[ProcessId, Ended] = {}
    for _ in range(_PASSES_MAX):
        live = await to_the_end(find_live_vms, paths)
        left = [vm for vm in live if vm.process not in ended]
        if not left:
            break
        # A VM that appears later was just being started: its guest has nothing to lose yet.
        time_s = timeout_s if not ended else 0.0
        results = await asyncio.gather(*(_Ending(vm, tell).run(time_s) for vm in left))
        ended |= {result.vm.process: result for result in results}
    return list(ended.values())


class _Ending:
    """Ends one VM, with a connection to its QEMU that is kept until it is gone."""

    def __init__(self, vm: LiveVM, tell: Tell) -> None:
        self._vm = vm
        self._tell = tell
        self._hold: Hold | None = None
        self._qmp: QmpConnection | None = None
        self._first_look = asyncio.Event()
        self._guest_ended = asyncio.Event()
        self._end: VMExit | None = None
        self._action: StopAction | None = None

    async def run(self, timeout_s: float) -> Ended:
        """End the VM; never raises for what is wrong with this one."""
        problem = None
        try:
            with Hold(self._vm.process) as self._hold:
                _, _ = await race(self._descend(timeout_s), self._follow())
        except (NodeError, OSError) as exc:
            problem = exc.explain() if isinstance(exc, NodeError) else str(exc)
            self._tell(f"{self._vm.vm_id}: {problem}")
        else:
            self._tell(f"{self._vm.vm_id}: {_words(self._action)}")
        return Ended(vm=self._vm, action=self._action, problem=problem)

    async def _descend(self, timeout_s: float) -> None:
        """Ask the guest, then force; return when QEMU is gone."""
        if self._vm.monitor is None:
            return await self._take_steps(plan_quit())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MONITOR_TIMEOUT_S):
                await race(self._first_look.wait(), self._wait_gone())
        if self._guest_ended.is_set():
            # By itself, while nobody looked: that is its task's own end.
            await self._keep_end()
            return await self._take_steps(
                plan_quit(_DRIVER_GRACE_S if self._vm.is_managed else 0.0), is_for_guest=False
            )
        await to_the_end(self._mark)
        await self._take_steps(plan_stop(timeout_s))
        return await self._take_steps(plan_quit(), is_for_guest=False)

    async def _take_steps(self, steps: tuple[StopStep, ...], *, is_for_guest: bool = True) -> None:
        """Go down a ladder: for a guest that may still run, or only for a QEMU without one."""

        async def take(action: StopAction) -> None:
            if is_for_guest:
                self._action = action
            await self._take_step(action)

        await descend(
            steps,
            pid=self._vm.process.pid,
            take=take,
            until_over=self._until_guest_ended if is_for_guest else self._wait_gone,
        )

    async def _until_guest_ended(self) -> None:
        await race(self._wait_gone(), self._wait_guest_ended())

    async def _wait_guest_ended(self) -> None:
        await self._guest_ended.wait()

    async def _wait_gone(self) -> None:
        assert self._hold is not None  # held by `run`
        await self._hold.wait_gone()

    async def _take_step(self, action: StopAction) -> None:
        agent = self._vm.agent
        if agent is None and action in (StopAction.GUEST_AGENT, StopAction.ACPI):
            return
        try:
            await take_step(
                action,
                agent=agent or GuestAgent(Path(), Path()),
                control=self._control,
                send_signal=self._send_signal,
                wait_gone=self._wait_gone,
                failed=self._note_failed_step,
            )
        except QmpError as exc:
            self._tell(f"{self._vm.vm_id}: {action}: {exc}")

    def _note_failed_step(self, _exc: Exception) -> None:
        if self._action is StopAction.GUEST_AGENT:
            # `take_step` presses the power button instead.
            self._action = StopAction.ACPI

    def _send_signal(self, signum: signal.Signals) -> None:
        assert self._hold is not None  # held by `run`
        try:
            self._hold.send(signum)
        except PermissionError as exc:
            raise another_users(self._vm.process.pid) from exc

    # The connection

    async def _follow(self) -> None:
        """Keep a connection to QEMU and note the guest's end; never returns."""
        while self._vm.monitor is not None:
            with contextlib.suppress(QmpError):
                async with await QmpConnection.connect(
                    self._vm.monitor, timeout_s=_MONITOR_TIMEOUT_S, on_event=self._on_event
                ) as self._qmp:
                    status = await commands.query_status(self._qmp)
                    self._note(guest_end_of_status(status))
                    self._first_look.set()
                    await self._qmp.wait_closed()
            self._qmp = None
            await asyncio.sleep(_RECONNECT_S)
        await asyncio.Event().wait()

    def _on_event(self, event: QmpEvent) -> None:
        self._note(guest_end_of_event(event))

    def _note(self, end: VMExit | None) -> None:
        if end is not None and self._end is None:
            self._end = end
            self._guest_ended.set()

    @contextlib.asynccontextmanager
    async def _control(self) -> AsyncGenerator[QmpConnection]:
        if self._qmp is None:
            raise QmpError("QEMU's monitor cannot be reached")
        yield self._qmp

    # What is written down

    async def _keep_end(self) -> None:
        """Write down how the guest ended, as QEMU ends with it and no driver has."""
        end = self._end
        assert end is not None  # the caller has seen it
        if not self._vm.is_managed:
            await to_the_end(self._write_end, end)

    def _write_end(self, end: VMExit) -> None:
        with contextlib.suppress(NodeError, OSError):
            lock = DirectoryLock.try_acquire(self._vm.directory.data)
            if lock is None:
                return
            try:
                if self._vm.directory.read_exit() is None:
                    self._vm.directory.write_exit(end)
            finally:
                lock.release()

    def _mark(self) -> None:
        # Without it the task's end counts, unless the node boots again: no reason not to stop it.
        with contextlib.suppress(NodeError, OSError):
            self._vm.directory.mark_node_stop()


def _words(action: StopAction | None) -> str:
    """Return what ended a VM, in words."""
    match action:
        case None:
            return "the guest had ended already"
        case StopAction.GUEST_AGENT:
            return "the guest agent shut it down"
        case StopAction.ACPI:
            return "it shut down at the power button"
        case StopAction.QUIT | StopAction.KILL:
            return "it did not shut down in time, and was ended"
