"""The task driver `vm`: Nomad's RPCs, answered by the VMs of this process.

Owns the translation between Nomad's tasks and VMs: task ids, handles, exits, timeouts. Does not
own what a VM is (`vm`), what the options mean (`task.vmrequest`), or the wire (`plugin`).

Nomad's client (2.0.6-dev, as observed) reacts to the answers like this. A WaitTask that fails ends
the task, so it never raises for a live VM. A RecoverTask that fails starts a second VM, so a VM
that has ended is recovered, too, and then reports its end. StopTask and DestroyTask of an unknown
id must succeed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.cancellation import Undo
from qemu_node.nomad.driver.runtime import DriverRuntime
from qemu_node.nomad.plugin.grpcstatus import TaskNotFoundError, UnsupportedError
from qemu_node.nomad.plugin.service import DriverService
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task import exec as task_exec
from qemu_node.nomad.task.advertise import tell_of_address, wait_to_advertise
from qemu_node.nomad.task.broker import EventBroker, TaskName
from qemu_node.nomad.task.options import parse_options, task_schema
from qemu_node.nomad.task.stats import build_stats
from qemu_node.nomad.task.task import PendingState, Task, decode_state, named_vm
from qemu_node.nomad.task.vmrequest import build_request
from qemu_node.vm.life.machine import VM
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.outcome import VMExit
from qemu_node.vm.record.removal import remove_named
from qemu_node.vm.services import Tell
from qemu_node.vm.start.request import Advertise, VMRequest
from qemu_node.vm.supervisor import Supervisor

log = logging.getLogger(__name__)

HANDLE_VERSION = 1
_DEFAULT_STATS_INTERVAL_S = 1.0


class VMDriver(DriverService):
    """Answers Nomad for all VMs of this node."""

    def __init__(self, runtime: DriverRuntime, *, waits_for_images: bool = False) -> None:
        """Serve the VMs of `runtime`.

        Args:
            runtime: The node's settings and services.
            waits_for_images: StartTask returns only when the VM runs, however long that takes. For
                a caller that can cancel it, which Nomad does not.
        """
        self._runtime = runtime
        self._waits_for_images = waits_for_images
        self._events = EventBroker()
        self._tasks: dict[str, Task] = {}
        self._unrecovered: dict[str, driver_pb2.TaskHandle] = {}
        """Tasks whose recovery has failed, or is in progress."""

    # The driver

    async def init(self, request: driver_pb2.InitRequest) -> driver_pb2.InitResponse:
        """Begin to serve. What an earlier driver has left behind is removed in the background."""
        await self._runtime.begin()
        return driver_pb2.InitResponse()

    async def shutdown(self, request: driver_pb2.ShutdownRequest) -> driver_pb2.ShutdownResponse:
        """Write to the tasks' logs what the guests have printed so far; the VMs go on."""
        await self._runtime.flush_logs()
        return driver_pb2.ShutdownResponse()

    async def task_config_schema(
        self, request: driver_pb2.TaskConfigSchemaRequest
    ) -> driver_pb2.TaskConfigSchemaResponse:
        """Return the schema of a task's `config` block."""
        return driver_pb2.TaskConfigSchemaResponse(spec=task_schema())

    async def capabilities(
        self, request: driver_pb2.CapabilitiesRequest
    ) -> driver_pb2.CapabilitiesResponse:
        """Return what the driver can do.

        With IMAGE isolation, `nomad alloc exec` needs only the capability alloc-exec, and nothing
        of the agent's environment reaches the task. Log collection is off because the driver writes
        Nomad's log files itself, without a helper process for each VM.
        """
        return driver_pb2.CapabilitiesResponse(
            capabilities=driver_pb2.DriverCapabilities(
                send_signals=False,
                exec=True,
                fs_isolation=driver_pb2.DriverCapabilities.IMAGE,
                network_isolation_modes=[driver_pb2.NetworkIsolationSpec.HOST],
                must_create_network=False,
                mount_configs=driver_pb2.DriverCapabilities.NO_MOUNTS,
                disable_log_collection=True,
            )
        )

    async def fingerprint(
        self, request: driver_pb2.FingerprintRequest
    ) -> AsyncIterator[driver_pb2.FingerprintResponse]:
        """Yield the node's health at once and whenever it changes."""
        # Agents before 2.0.4 do not call Init, so the first Fingerprint begins the work.
        await self._runtime.begin()
        async for response in self._runtime.fingerprints():
            yield response

    async def task_events(
        self, request: driver_pb2.TaskEventsRequest
    ) -> AsyncIterator[driver_pb2.DriverTaskEvent]:
        """Yield the events of all tasks until the caller cancels."""
        async for event in self._events.listen():
            yield event

    # A task's life

    async def start_task(
        self, request: driver_pb2.StartTaskRequest
    ) -> driver_pb2.StartTaskResponse:
        """Start the task's VM and return once it runs, or earlier if its image takes long."""
        config = request.task
        await self._runtime.begin()
        if config.id in self._tasks:
            raise NodeError(f"task {config.id} is started already")
        supervisor = self._runtime.supervisor()
        options = parse_options(config.msgpack_driver_config)
        wanted = build_request(
            config,
            options,
            merge_default=self._runtime.config.qemu.merge,
            network=self._runtime.config.network,
        )
        task = self._tasks[config.id] = Task(TaskName.of(config))
        override = driver_pb2.NetworkOverride()
        is_late = asyncio.Event()
        # Nomad takes the address only from the answer to StartTask.
        may_be_late = wanted.advertise is None and not self._waits_for_images
        task.begin(
            self._start(
                task, supervisor, wanted, override, is_late.set if may_be_late else lambda: None
            ),
            self._runtime.tasks,
        )
        try:
            async with Undo() as undo:
                undo.push_async_callback(self._abandon, task)
                is_running = await task.started(is_late)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            # The caller still waits, but gRPC sends no answer for a call that ends cancelled.
            raise NodeError(f"task {config.id} was stopped while it was being started") from None
        if is_running:
            state = task.vm.state.encode()
        else:
            directory = VMDirectory.of(self._runtime.config.paths, wanted.identity.vm_id)
            state = PendingState.of(directory, config.id).encode()
        return driver_pb2.StartTaskResponse(
            result=driver_pb2.StartTaskResponse.SUCCESS,
            handle=driver_pb2.TaskHandle(
                version=HANDLE_VERSION,
                config=config,
                state=driver_pb2.TaskState.RUNNING,
                driver_state=state,
            ),
            network_override=override if override.addr else None,
        )

    async def _abandon(self, task: Task) -> None:
        """Cancel a start whose caller will not get its VM, and remove the VM if it runs by now."""
        await task.cancel()
        await self._destroy(task)

    async def _destroy(self, task: Task) -> None:
        """Remove the VM of a task, if it has one, and forget the task.

        The task is forgotten even if that fails: Nomad's client ignores the error, does not ask
        about the task again, and may start it again. The supervisor removes what is left of the VM.
        """
        try:
            if task.has_vm:
                await self._runtime.vms.destroy(task.vm)
        finally:
            # Another call may have removed it, and the task may have been started again.
            if self._tasks.get(task.name.id) is task:
                del self._tasks[task.name.id]

    async def _start(
        self,
        task: Task,
        supervisor: Supervisor,
        wanted: VMRequest,
        override: driver_pb2.NetworkOverride,
        on_long_wait: Callable[[], None],
    ) -> VM:
        """Return the running VM; put the address for Nomad to advertise into `override`."""

        def tell(message: str, notes: dict[str, str]) -> None:
            self._events.tell(task.name, message, notes)

        vm = await supervisor.start(wanted, tell, on_long_wait)
        async with Undo() as undo:
            # Nomad does not know this VM yet.
            undo.push_async_callback(supervisor.destroy, vm)
            address = await self._announce(vm, wanted.advertise, tell)
        if address is not None:
            override.CopyFrom(address)
        return vm

    async def _announce(
        self, vm: VM, advertise: Advertise | None, tell: Tell
    ) -> driver_pb2.NetworkOverride | None:
        """Tell that the VM runs; return the address to advertise, if the job wants one."""
        record = vm.record
        # Meanwhile Nomad shows the task as pending, which looks like an error.
        more = (
            "" if advertise is None else f"; waiting up to {advertise.wait_s:g} s for its address"
        )
        tell(
            f"VM {record.vm_id} runs: {record.hardware.vcpus} vCPU, "
            f"{record.memory_bytes >> 20} MiB, {record.hardware.firmware}, {record.accelerator}"
            f"{more}",
            {"vm_id": record.vm_id, "pid": str(record.pid)},
        )
        if advertise is not None:
            override = await wait_to_advertise(vm, advertise, tell)
            if override is not None:
                return override
        self._tell_of_address(vm, tell)
        return None

    def _tell_of_address(self, vm: VM, tell: Tell) -> None:
        """Tell the guest's addresses, once it has some, if it has a port of the bridge."""
        record = vm.record
        if record.ports:
            _ = self._runtime.tasks.start(tell_of_address(vm, tell), name=f"address {record.vm_id}")

    async def recover_task(
        self, request: driver_pb2.RecoverTaskRequest
    ) -> driver_pb2.RecoverTaskResponse:
        """Adopt a task of an earlier driver. A task that has ended or is already known is OK."""
        handle = request.handle
        # request.task_id is empty: Nomad's client only sends the handle.
        config = handle.config
        if config.id not in self._tasks:
            # Keep the handle until the task is recovered: after a failure Nomad calls DestroyTask
            # and starts the task again, maybe on another node.
            self._unrecovered[config.id] = handle
            await self._recover(handle)
            self._unrecovered.pop(config.id, None)
        return driver_pb2.RecoverTaskResponse()

    async def _recover(self, handle: driver_pb2.TaskHandle) -> None:
        name = TaskName.of(handle.config)
        await self._runtime.begin()
        state = decode_state(handle.driver_state, name.id)

        def tell(message: str, notes: dict[str, str]) -> None:
            self._events.tell(name, message, notes)

        vm = await self._runtime.vms.recover(state, tell)
        self._tasks[name.id] = Task(name, vm)
        # The address may have appeared or changed while no driver ran.
        self._tell_of_address(vm, tell)

    async def wait_task(self, request: driver_pb2.WaitTaskRequest) -> driver_pb2.WaitTaskResponse:
        """Return how the VM ended, once it has."""
        outcome = await self._find(request.task_id).wait()
        return driver_pb2.WaitTaskResponse(result=_result(outcome), err=outcome.reason or "")

    async def stop_task(self, request: driver_pb2.StopTaskRequest) -> driver_pb2.StopTaskResponse:
        """Stop the VM within the timeout, first by asking the guest; return when it is gone."""
        task = self._tasks.get(request.task_id)
        if task is not None:
            await task.cancel()
            if task.has_vm:
                await task.vm.stop(request.timeout.ToNanoseconds() / 1e9)
        return driver_pb2.StopTaskResponse()

    async def destroy_task(
        self, request: driver_pb2.DestroyTaskRequest
    ) -> driver_pb2.DestroyTaskResponse:
        """Remove the VM and all its files. A running VM is removed only with `force`."""
        task = self._tasks.get(request.task_id)
        if task is not None:
            if task.exit is None and not request.force:
                raise NodeError(f"task {request.task_id} is running; only force destroys it")
            await task.cancel()
            await self._destroy(task)
        elif request.force and (handle := self._unrecovered.get(request.task_id)) is not None:
            await remove_named(named_vm(handle), self._runtime.config.paths)
            self._unrecovered.pop(request.task_id, None)
        return driver_pb2.DestroyTaskResponse()

    # A task seen from outside

    async def inspect_task(
        self, request: driver_pb2.InspectTaskRequest
    ) -> driver_pb2.InspectTaskResponse:
        """Return the VM's state."""
        task = self._find(request.task_id)
        outcome = task.exit
        status = driver_pb2.TaskStatus(
            id=task.name.id,
            name=task.name.name,
            state=driver_pb2.TaskState.RUNNING if outcome is None else driver_pb2.TaskState.EXITED,
        )
        # A missing timestamp is an error in Nomad; a zero one means "not yet".
        status.started_at.seconds = status.completed_at.seconds = 0
        attributes: dict[str, str] = {}
        if task.has_vm:
            record = task.vm.record
            attributes = {"vm_id": record.vm_id, "pid": str(record.pid), "image": record.image}
            status.started_at.FromJsonString(record.created_at)
            if task.vm.ended_at is not None:
                status.completed_at.FromMilliseconds(int(task.vm.ended_at * 1000))
        if outcome is not None:
            status.result.CopyFrom(_result(outcome))
        return driver_pb2.InspectTaskResponse(
            task=status, driver=driver_pb2.TaskDriverStatus(attributes=attributes)
        )

    async def task_stats(
        self, request: driver_pb2.TaskStatsRequest
    ) -> AsyncIterator[driver_pb2.TaskStatsResponse]:
        """Yield the VM's resource use until it ends."""
        task = self._find(request.task_id)
        if not await task.has_started():
            return
        meter = self._runtime.vms.meter(task.vm)
        interval_s = request.collection_interval.ToNanoseconds() / 1e9 or _DEFAULT_STATS_INTERVAL_S
        while task.vm.exit is None:
            yield build_stats(
                task.name.id,
                meter.cpu_share(),
                meter.pss_bytes,
                mhz_per_core=self._runtime.mhz_per_core,
            )
            await asyncio.sleep(interval_s)

    async def exec_task(self, request: driver_pb2.ExecTaskRequest) -> driver_pb2.ExecTaskResponse:
        """Run a command in the guest, for Nomad's script checks."""
        vm = self._find(request.task_id).vm
        timeout_s = request.timeout.ToNanoseconds() / 1e9
        return await task_exec.run_once(vm, list(request.command), timeout_s)

    async def signal_task(
        self, request: driver_pb2.SignalTaskRequest
    ) -> driver_pb2.SignalTaskResponse:
        """Refuse. The client calls this whatever the capabilities say, and shows the reason."""
        raise UnsupportedError(
            f"a VM cannot be sent {request.signal}", hint='change_mode of its templates: use "noop"'
        )

    def exec_task_streaming(
        self, requests: AsyncIterator[driver_pb2.ExecTaskStreamingRequest]
    ) -> AsyncIterator[driver_pb2.ExecTaskStreamingResponse]:
        """Run a command in the guest for `nomad alloc exec`."""
        return task_exec.run_streaming(
            requests, lambda id_: self._find(id_).vm, self._runtime.tasks
        )

    def _find(self, task_id: str) -> Task:
        task = self._tasks.get(task_id)
        if task is None:
            raise TaskNotFoundError
        return task


def _result(outcome: VMExit) -> driver_pb2.ExitResult:
    return driver_pb2.ExitResult(
        exit_code=outcome.exit_code, signal=outcome.signal, oom_killed=outcome.oom_killed
    )
