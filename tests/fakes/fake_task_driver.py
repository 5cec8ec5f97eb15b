"""A driver for sessions, in this process: plain values, no QEMU, misbehaving on demand."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fakes.specs import HARDWARE
from qemu_node.errors import NodeError
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task.options import task_schema
from qemu_node.qemu.spec import Accelerator, PortForward
from qemu_node.run.allocation.taskconfig import DriverFacts
from qemu_node.run.driverlink import DriverInfo, DriverLink, TaskEnd, TaskEvent
from qemu_node.vm.names import TaskIdentity, vm_id
from qemu_node.vm.record.record import NicRecord, SocketPaths, VMRecord


@dataclass
class FakeTask:
    """One task: its configuration, how it ended, what was asked of it."""

    config: driver_pb2.TaskConfig
    end: asyncio.Future[TaskEnd] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    stops: list[float] = field(default_factory=list)


class FakeTaskDriver(DriverLink):
    """A driver without a process.

    Args:
        run_dir: Where vm.json files go.
        begin_error: `begin` raises it.
        start_errors: By task name: `start` raises it.
        hangs_in_start: `start` never returns.
        ignores_gentle_stop: Only a stop with timeout 0 ends a task, with SIGKILL.
        fails_to_stop: The first stop of each task raises.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        begin_error: NodeError | None = None,
        start_errors: dict[str, NodeError] | None = None,
        hangs_in_start: bool = False,
        ignores_gentle_stop: bool = False,
        fails_to_stop: bool = False,
    ) -> None:
        self._run_dir = run_dir
        self._begin_error = begin_error
        self._start_errors = start_errors or {}
        self._hangs_in_start = hangs_in_start
        self._ignores_gentle_stop = ignores_gentle_stop
        self._fails_to_stop = fails_to_stop
        self.tasks: dict[str, FakeTask] = {}
        self.stopped: list[tuple[str, float]] = []
        self.destroyed: list[str] = []
        self.started = asyncio.Event()
        self.event_queue: asyncio.Queue[TaskEvent] = asyncio.Queue()

    async def begin(self) -> DriverInfo:
        if self._begin_error is not None:
            raise self._begin_error
        facts = DriverFacts(
            task_schema=task_schema(),
            has_own_paths=True,
            attributes={"driver.vm.accelerator": "tcg"},
        )
        return DriverInfo(facts=facts, health="ready")

    async def start(self, task: driver_pb2.TaskConfig) -> str:
        self.started.set()
        if task.name in self._start_errors:
            raise self._start_errors[task.name]
        if self._hangs_in_start:
            await asyncio.Event().wait()
        self.tasks[task.id] = FakeTask(task)
        record = make_record(task)
        directory = self._run_dir / record.vm_id
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "vm.json").write_bytes(msgspec.json.encode(record))
        return record.vm_id

    async def wait(self, task_id: str) -> TaskEnd:
        return await asyncio.shield(self.tasks[task_id].end)

    async def stop(self, task_id: str, timeout_s: float, signal: str) -> None:
        self.stopped.append((task_id, timeout_s))
        task = self.tasks.get(task_id)
        if task is None:
            return
        task.stops.append(timeout_s)
        if self._fails_to_stop and len(task.stops) == 1:
            raise NodeError("the VM does not listen")
        if timeout_s == 0:
            self.end(task_id, TaskEnd(exit_code=137, signal=9))
        elif not self._ignores_gentle_stop:
            self.end(task_id, TaskEnd(exit_code=0))
        await asyncio.shield(task.end)

    def end(self, task_id: str, end: TaskEnd) -> None:
        """End a task, by itself or because it was asked to."""
        future = self.tasks[task_id].end
        if not future.done():
            future.set_result(end)

    def break_off(self) -> None:
        """Make every wait fail, as when the driver's process dies."""
        for task in self.tasks.values():
            task.end.set_exception(NodeError("the plugin is gone"))

    async def destroy(self, task_id: str) -> None:
        self.destroyed.append(task_id)

    async def events(self) -> AsyncIterator[TaskEvent]:
        while True:
            yield await self.event_queue.get()


def make_record(task: driver_pb2.TaskConfig) -> VMRecord:
    """Return the vm.json of a task, with one forwarded port."""
    return VMRecord(
        vm_id=vm_id(task.alloc_id, task.name),
        identity=TaskIdentity(
            alloc_id=task.alloc_id,
            namespace=task.namespace,
            job_id=task.job_id,
            job_name=task.job_name,
            group=task.task_group_name,
            task=task.name,
            index=int(task.env["NOMAD_ALLOC_INDEX"]),
            node_name=task.node_name,
        ),
        pid=1,
        start_time=1,
        uuid="u",
        hostname="h",
        hardware=HARDWARE,
        accelerator=Accelerator.TCG,
        image="i",
        memory_bytes=1,
        memory_min_bytes=1,
        memory_max_bytes=1,
        nics=(
            NicRecord(
                mode="user",
                mac="02:00:00:00:00:01",
                forwards=(
                    PortForward(label="ssh", host_ip="127.0.0.1", host_port=20022, guest_port=22),
                ),
            ),
        ),
        sockets=SocketPaths(qmp="q", monitor="m", qga="g", vnc="v", serial="s"),
        qga_lock="l",
        allow_exec=False,
        alloc_dir=task.alloc_dir,
        created_at="2026-01-01T00:00:00Z",
    )
