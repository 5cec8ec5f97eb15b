"""Ending a VM's processes and removing its files, whoever made them.

Owns removing a VM in any state, also in one that a killed driver left. The caller holds the VM's
lock, or gets it from `claim`.
"""

import asyncio
import contextlib
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.process.identity import ProcessId
from qemu_node.host.process.pidfd import send_signal, wait_gone
from qemu_node.vm.record.directory import DirectoryLock, VMBusyError, VMDirectory
from qemu_node.vm.record.processes import find_vm_processes, running_vm_ids
from qemu_node.vm.record.record import StateError, StateHeader

KILL_TIMEOUT_S = 30.0
"""Bound for the end of a process after SIGKILL; freeing a large guest takes seconds."""

log = logging.getLogger(__name__)

_CLAIM_TRIES = 20
_CLAIM_PAUSE_S = 0.1
_LAUNCH_POLL_S = 0.02

_REMOVERS = ThreadPoolExecutor(4, "remove")


class UnkillableError(HostError):
    """A process survived SIGKILL: it hangs in the kernel and holds on to its files."""

    def __init__(self, pid: int) -> None:
        super().__init__(
            f"QEMU process {pid} did not end within {KILL_TIMEOUT_S:g} s of SIGKILL",
            hint="it hangs in the kernel; look at dmesg",
        )


async def claim(directory: VMDirectory) -> DirectoryLock:
    """Return the lock on a fresh data directory, having removed a left-over VM of the same task.

    A left-over is what a driver killed during a start leaves, or a VM that Nomad gave up and now
    starts again.

    Raises:
        VMBusyError: a live driver manages this VM.
        HostError: the directory cannot be made, or the left-over does not die.
    """
    for _ in range(_CLAIM_TRIES):
        directory.create_data()
        lock = DirectoryLock.try_acquire(directory.data)
        if lock is None:
            # Its manager may be on its way out, or a reconcile is looking at it.
            await asyncio.sleep(_CLAIM_PAUSE_S)
            continue
        if directory.is_fresh():
            return lock
        try:
            await remove_vm(directory)
        finally:
            lock.release()
    raise VMBusyError(
        f"VM {directory.vm_id} is managed by another process",
        hint="another driver or `qemu-node run` holds it; stop it there",
    )


async def remove_vm(directory: VMDirectory) -> None:
    """Kill what runs of a VM and remove its files; the caller holds its lock.

    Raises:
        UnkillableError: a process does not end.
        HostError: a file cannot be removed.
    """
    state = _read_header(directory)
    if state is not None and state.is_running:
        await kill(state.record.process)
    await _end_processes(directory)
    await remove_files(directory, None if state is None else state.uid)


async def remove_files(directory: VMDirectory, uid: int | None = None) -> None:
    """Remove a VM's files and the lease of `uid`, or of the user that has one; it has ended.

    In threads of their own: a large disk image takes seconds, and nothing else is to wait for it.

    Raises:
        HostError: a file cannot be removed.
    """
    await finish(asyncio.get_running_loop().run_in_executor(_REMOVERS, directory.remove, uid))


async def _end_processes(directory: VMDirectory) -> None:
    """Kill what runs of a VM, and what a driver that was killed has only just begun to start.

    Raises:
        UnkillableError: a process does not end.
        HostError: a process has the VM's user claimed and does not become it.
    """
    vm_data_dir, vm_id = directory.data.parent, directory.vm_id
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_TIMEOUT_S):
            while vm_id in await to_the_end(running_vm_ids, vm_data_dir):
                for found, process in await to_the_end(find_vm_processes, vm_data_dir):
                    if found == vm_id:
                        await kill(process)
                await asyncio.sleep(_LAUNCH_POLL_S)
    # `VMDirectory.remove` finds what is left.


@dataclass(frozen=True, slots=True, kw_only=True)
class VMName:
    """What a handle says of the VM of one start."""

    vm_id: str
    task_id: str
    state: StateHeader | None
    """What could be read of its state."""


async def remove_named(name: VMName, paths: Paths) -> None:
    """Kill the VM that `name` means and remove its files; nothing where it is not there any more.

    The id of a VM is the same for every start of its task: a VM of another start is not touched.
    Where another driver holds the lock, the process is killed and that driver removes the files.

    Raises:
        UnkillableError: a process does not end.
        HostError: a file cannot be removed.
    """
    directory = VMDirectory.of(paths, name.vm_id)
    if name.state is not None:
        directory = VMDirectory.of_state(name.state, paths)
        if name.state.is_running:
            await kill(name.state.record.process)
    lock = DirectoryLock.try_acquire(directory.data)
    if lock is None:
        return
    try:
        found = _read_header(directory)
        if found is None or found.task_id in ("", name.task_id):
            log.info("removing a VM that was not recovered", extra={"vm_id": name.vm_id})
            await remove_vm(directory)
    finally:
        lock.release()


async def kill(process: ProcessId) -> None:
    """SIGKILL a process and return when it is gone.

    Raises:
        UnkillableError: it does not end.
    """
    send_signal(process, signal.SIGKILL)
    try:
        async with asyncio.timeout(KILL_TIMEOUT_S):
            await wait_gone(process)
    except TimeoutError:
        raise UnkillableError(process.pid) from None


def _read_header(directory: VMDirectory) -> StateHeader | None:
    """Return what can be read of a VM's state."""
    try:
        return directory.read_state()
    except StateError as exc:
        return exc.header
