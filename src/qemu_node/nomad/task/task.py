"""A task that Nomad knows: its start, then its VM.

Owns a start that goes on after StartTask has answered, and the driver_state of such a task. Does
not own what a start does (`vm.supervisor`) nor the RPCs (`driver`).

Nomad's client makes no other call about a task until StartTask has returned (2.0.6-dev, as
observed), so a stop would wait until the image is downloaded. Therefore StartTask answers early if
the image takes long, and the task counts as running. If the start then fails, the task ends.
"""

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal

import msgspec

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task.broker import TaskName
from qemu_node.text import DECODE_ERRORS
from qemu_node.vm import names
from qemu_node.vm.life.machine import VM
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.outcome import VMExit
from qemu_node.vm.record.record import StateError, StateHeader, VMState
from qemu_node.vm.record.removal import VMName

log = logging.getLogger(__name__)

_STOPPED = VMExit(exit_code=0)
"""The exit of a task that was stopped before its VM ran."""


class NotRunningError(NodeError):
    """The task's VM is still being started; ask again later."""

    retry = True


class StartLostError(NodeError):
    """The driver ended while it started the task's VM; there is nothing to recover."""


class Task:
    """A task whose VM runs, has ended, or is being started in the background."""

    def __init__(self, name: TaskName, vm: VM | None = None) -> None:
        self.name = name
        self._vm = vm
        self._start: asyncio.Task[VM | NodeError] | None = None
        self._is_stopped = False

    @property
    def vm(self) -> VM:
        """The VM, which runs or has ended.

        Raises:
            NotRunningError: there is none yet.
        """
        if self._vm is None:
            raise NotRunningError("the VM is still being started: its image is not there yet")
        return self._vm

    @property
    def has_vm(self) -> bool:
        """Whether the start has succeeded."""
        return self._vm is not None

    @property
    def exit(self) -> VMExit | None:
        """How the task ended; None while its VM runs or is being started."""
        if self._vm is not None:
            return self._vm.exit
        if self._start is None or not self._start.done():
            return None
        return self._end_of_start(self._start)

    def begin(self, start: Coroutine[Any, Any, VM], tasks: TaskOwner) -> None:
        """Run `start`, which returns the VM, in the background."""
        self._start = tasks.start(self._make(start), name=f"start {self.name.id}")

    async def _make(self, start: Coroutine[Any, Any, VM]) -> VM | NodeError:
        try:
            self._vm = await start
        except NodeError as exc:
            # Return it: an exception of a background task would be logged as a bug.
            return exc
        return self._vm

    async def started(self, is_late: asyncio.Event) -> bool:
        """Return True once the VM runs, False if `is_late` is set first.

        Cancelling this does not cancel the start.

        Raises:
            NodeError: the start failed.
            CancelledError: it was cancelled by `cancel`.
        """
        assert self._start is not None
        await race(self._settled(), is_late.wait())
        if not self._start.done():
            return False
        outcome = self._start.result()
        if isinstance(outcome, NodeError):
            raise outcome
        return True

    async def _settled(self) -> None:
        if self._start is not None:
            await asyncio.wait({self._start})

    async def cancel(self) -> None:
        """Cancel a start in progress and return when it is undone.

        A download goes on, for the next VM that needs the image.
        """
        if self._start is None or self._start.done():
            return
        if not self._is_stopped:
            self._is_stopped = True
            self._start.cancel()
        await self._settled()

    async def has_started(self) -> bool:
        """Wait until the start is over; tell whether there is a VM."""
        await self._settled()
        return self.has_vm

    async def wait(self) -> VMExit:
        """Wait until the VM, or a failed start, has ended; return how."""
        await self._settled()
        if self._vm is not None:
            return await self._vm.wait()
        assert self._start is not None
        if self._start.cancelled() and not self._is_stopped:
            # The driver ends. Nomad must learn of the task's end from the next driver.
            await asyncio.Event().wait()
        return self._end_of_start(self._start)

    def _end_of_start(self, start: "asyncio.Task[VM | NodeError]") -> VMExit:
        if start.cancelled():
            return _STOPPED
        error: BaseException | VM | None = start.exception() or start.result()
        words = error.explain() if isinstance(error, NodeError) else f"internal error: {error}"
        return VMExit(exit_code=1, reason=f"the VM did not start: {words}")


class PendingState(msgspec.Struct, frozen=True, kw_only=True):
    """The driver_state of a task whose start goes on after StartTask: where its VM will be.

    Nomad never asks for the state again, so it keeps this one as long as the task lives. It holds
    no option of the job: an image's URL may hold a password.
    """

    version: Literal[1] = 1
    is_pending: Literal[True]
    vm_id: str
    task_id: str
    data_dir: str
    run_dir: str

    @classmethod
    def of(cls, directory: VMDirectory, task_id: str) -> "PendingState":
        """Return the state of the task `task_id`, whose VM will be in `directory`."""
        return cls(
            is_pending=True,
            vm_id=directory.vm_id,
            task_id=task_id,
            data_dir=str(directory.data),
            run_dir=str(directory.run),
        )

    def encode(self) -> bytes:
        """Return this as JSON."""
        return msgspec.json.encode(self)


def decode_state(data: bytes, task_id: str) -> VMState:
    """Return the state of the VM of task `task_id`, found by its driver_state.

    Raises:
        StartLostError: the driver ended during the start. Nomad starts the task again,
            whatever its restart policy.
        StateError: the state is damaged, or of a newer driver.
    """
    try:
        pending = msgspec.json.decode(data, type=PendingState)
    except DECODE_ERRORS:
        return VMState.decode(data, f"the handle of task {task_id}")
    directory = VMDirectory(data=Path(pending.data_dir), run=Path(pending.run_dir))
    state = directory.read_state()
    if state is None or state.task_id != task_id:
        raise StartLostError("the driver ended while it waited for an image; the task starts again")
    return state


def named_vm(handle: driver_pb2.TaskHandle) -> VMName:
    """Return the VM that a handle names, even if the handle is not enough to recover it."""
    config = handle.config
    state: StateHeader | None = None
    try:
        state = decode_state(handle.driver_state, config.id)
    except StateError as exc:
        state = exc.header
    except StartLostError:
        # What the start had made may be left.
        log.debug("start was lost", extra={"task_id": config.id})
    vm_id = state.vm_id if state is not None else names.vm_id(config.alloc_id, config.name)
    return VMName(vm_id=vm_id, task_id=config.id, state=state)
