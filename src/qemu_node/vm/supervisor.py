"""All VMs that this process manages, and the loops that serve them.

Owns the set of VMs, their logs' pumping, their usage files, counting their starts and ends, and the
periodic reconcile. Does not own what Nomad calls them (task ids are `nomad.driver`'s).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from qemu_node.errors import HostError, NodeError
from qemu_node.host.allocator import give_back_free_memory
from qemu_node.host.concurrency.cancellation import Undo
from qemu_node.host.concurrency.loops import Troubles, attempt, repeat
from qemu_node.host.concurrency.threads import Worker, to_the_end
from qemu_node.vm.admission import Admission
from qemu_node.vm.life.diskguard import DiskGuard
from qemu_node.vm.life.endings import Endings
from qemu_node.vm.life.healthserver import HealthServer
from qemu_node.vm.life.machine import VM
from qemu_node.vm.life.usage import DiskState, UsageMeter, drops_of, read_usage
from qemu_node.vm.nodereport import NodeReport
from qemu_node.vm.output.console_log import PumpTurns
from qemu_node.vm.output.vmlogs import NO_LOGS, TaskLogs, VMLogs, opened_at_first_use
from qemu_node.vm.reconcile import Reconciler
from qemu_node.vm.record.directory import DirectoryLock, VMBusyError, VMDirectory
from qemu_node.vm.record.outcome import kind_of
from qemu_node.vm.record.record import VMState
from qemu_node.vm.record.removal import remove_files
from qemu_node.vm.services import NodeServices, Tell
from qemu_node.vm.start.launch import launch
from qemu_node.vm.start.request import VMRequest
from qemu_node.vm.start.steps import StartStep

log = logging.getLogger(__name__)

T = TypeVar("T")

_PUMP_INTERVAL_S = 0.25
_USAGE_INTERVAL_S = 20.0
_REPORT_INTERVAL_S = 5.0
_RECONCILE_INTERVAL_S = 60.0
_WATCH_AGAIN_S = 60.0
_BEFORE_STEPS = "check"
_SETTLE_S = 1.5
"""Before the first reconcile, which reads the files of every VM and looks at every process: the
agent asks a new driver at once to recover the VMs of an earlier one, and that comes first."""
_RECOVER_LOCK_TIMEOUT_S = 10.0
_CALM_S = 0.1
_CALM_TRIES = 20
_FOLLOWED_AT_ONCE = 16


class NodeStopError(NodeError):
    """A VM ended with its node, by a shutdown or a power cut; its task starts again.

    Nomad restarts a task that cannot be recovered whatever its restart policy (2.0.6,
    `TaskRunner.Restore`), and counts it neither as an exit nor as a failure: as with its own
    drivers, whose tasks do not survive a boot either.
    """

    def __init__(self) -> None:
        super().__init__("the VM was stopped with its node; its task starts again")


OpenLogs = Callable[[Path, str], TaskLogs]
"""Opens the logs of a task: its allocation's directory, its name."""


@dataclass(slots=True, kw_only=True)
class _Managed:
    """A VM and what belongs to it."""

    vm: VM
    logs: VMLogs
    meter: UsageMeter
    detaching: "asyncio.Task[None] | None" = None
    """Gives up the VM's ports, as it has ended; a stop does not wait for it."""
    health: HealthServer | None = None
    is_unwanted: bool = False
    """Its removal has failed, and is tried again: Nomad asks for it once."""
    is_counted: bool = False
    """An earlier driver has counted its end."""


class Supervisor:
    """The VMs that this process manages; each is held by its lock."""

    def __init__(self, node: NodeServices, open_logs: OpenLogs) -> None:
        self._node = node
        self._open_logs = open_logs
        self._managed: dict[str, _Managed] = {}
        self._turns = PumpTurns()
        self._log_worker = Worker("logs")
        self._troubles = Troubles()
        self._reconciler = Reconciler(node.config.paths)
        self._report = NodeReport(node.config.paths, node.keeper)
        self._is_watching = False
        self._is_reporting = False
        self._endings = Endings()
        self._recovered: list[VM] = []
        """Those that are not followed yet."""
        self.admission = Admission(lambda: len(self._managed))

    @property
    def vms(self) -> list[VM]:
        """The managed VMs."""
        return [managed.vm for managed in self._managed.values()]

    def begin(self) -> None:
        """Begin to serve: pump logs, reconcile, measure and prefetch."""
        self._repeat(self._node.network.watch, "watching the network", _WATCH_AGAIN_S)
        self._repeat(self.reconcile, "reconciling", _RECONCILE_INTERVAL_S, _SETTLE_S)
        self._is_reporting = True
        self._repeat(self.report, "writing down how the node is", _REPORT_INTERVAL_S, _SETTLE_S)
        _ = self._node.tasks.start(self._node.prefetcher.run(self._troubles), name="prefetching")
        self.watch()

    def watch(self) -> None:
        """Begin with what VMs need that run, whatever the node's settings: logs and figures."""
        if not self._is_watching:
            self._is_watching = True
            self._repeat(self._pump, "moving guests' output into logs", _PUMP_INTERVAL_S)
            # What an earlier driver measured is still in usage.json.
            self._repeat(self._measure, "measuring VMs", _USAGE_INTERVAL_S, _USAGE_INTERVAL_S)

    def use(self, node: NodeServices) -> None:
        """Have `node` from now on: its settings could be read at last."""
        self._node = node
        self._reconciler = Reconciler(node.config.paths)
        self._report = NodeReport(node.config.paths, node.keeper)
        for vm in self.vms:
            node.network.adopt(vm.record)

    def _repeat(
        self,
        work: Callable[[], Awaitable[object]],
        name: str,
        interval_s: float,
        first_s: float = 0.0,
    ) -> None:
        loop = repeat(
            work, name=name, interval_s=interval_s, troubles=self._troubles, first_s=first_s
        )
        _ = self._node.tasks.start(loop, name=name)

    async def aclose(self) -> None:
        """Move what the guests have printed into the logs, and stop serving; the VMs run on."""
        await self.flush_logs()
        if self._is_reporting:
            await self._attempt(self.report, "writing down how the node is")
        self._log_worker.close()

    async def start(
        self, request: VMRequest, tell: Tell, on_long_wait: Callable[[], None] = lambda: None
    ) -> VM:
        """Start a VM and manage it; `on_long_wait` is called where its image takes long.

        Raises:
            NodeError: it did not start; nothing is left of it.
        """
        began, step = time.monotonic(), [_BEFORE_STEPS]
        try:
            vm = await self._start(request, tell, on_long_wait, lambda s: step.append(s.value))
        except asyncio.CancelledError:
            self._report.count_cancelled()
            raise
        except Exception:
            self._report.count_failure(step[-1])
            raise
        self._report.count_start(time.monotonic() - began)
        return vm

    async def _start(
        self,
        request: VMRequest,
        tell: Tell,
        on_long_wait: Callable[[], None],
        on_step: Callable[[StartStep], object],
    ) -> VM:
        vm_id = request.identity.vm_id
        if vm_id in self._managed:
            # A restart in place comes after DestroyTask; whatever is here is a left-over of ours.
            await self.destroy(self._managed[vm_id].vm)
        logs = NO_LOGS
        if request.has_log:
            logs = await to_the_end(self._open_logs, request.alloc_dir, request.identity.task)
        try:
            launched = await launch(
                request,
                self._node,
                tell=tell,
                admission=self.admission,
                on_long_wait=on_long_wait,
                on_step=on_step,
            )
        except BaseException as exc:
            if isinstance(exc, NodeError):
                words = f"VM did not start: {exc.explain()}\n".encode()
                await to_the_end(logs.stderr, words)
            logs.close()
            raise
        vm = self._take(launched.state, launched.directory, launched.lock, logs, tell)
        vm.run(launched)
        async with Undo() as undo:
            undo.push_async_callback(self.destroy, vm)
            await self._serve_health(vm)
        return vm

    async def recover(self, state: VMState, tell: Tell = lambda _text, _notes: None) -> VM:
        """Take up a VM of an earlier driver, or report the end of one that is gone. Idempotent.

        It is where `state` says, also if node.toml has other paths by now. What happens to it later
        is told to `tell`.

        Raises:
            VMBusyError: another live driver manages it.
            NodeStopError: it ended with its node; nothing is left of it.
        """
        known = self._managed.get(state.vm_id)
        if known is not None:
            return known.vm
        directory = VMDirectory.of_state(state, self._node.config.paths)
        lock = await _lock_for_recovery(directory)
        async with Undo() as undo:
            if lock is not None:
                undo.callback(lock.release)
            logs = self._logs_for_recovery(state)
            if not state.is_running and directory.ended_with_node(state):
                await self._remove_ended_with_node(state, directory, lock, logs)
                raise NodeStopError
            if directory.node_stop_file.exists():
                await to_the_end(directory.forget_node_stop)
            self._node.network.adopt(state.record)
            vm = self._take(state, directory, lock, logs, tell)
            self._managed[state.vm_id].is_counted = directory.exit_file.exists()
        vm.adopt()
        self._follow_soon(vm)
        await self._serve_health(vm)
        return vm

    async def _remove_ended_with_node(
        self,
        state: VMState,
        directory: VMDirectory,
        lock: DirectoryLock | None,
        logs: TaskLogs,
    ) -> None:
        """Move what the guest printed last into the task's log, and remove the VM's files."""
        vm_logs = VMLogs(
            directory, state.record.process, logs, self._node.config.logs, self._log_worker
        )
        await vm_logs.finish("VM ended: it was stopped with its node; its task starts again")
        await vm_logs.close()
        if lock is not None:
            try:
                await remove_files(directory, state.uid)
            except HostError as exc:
                # Reconcile tries again.
                log.warning("VM not removed", extra={"vm_id": state.vm_id, "error": str(exc)})

    def _follow_soon(self, vm: VM) -> None:
        """Begin to follow a recovered VM when no further one has come for a moment.

        An agent has a new driver recover hundreds of VMs at once. Until the last of them is held,
        nobody would notice its end; what QEMU has to say of the others can wait.
        """
        self._recovered.append(vm)
        if len(self._recovered) == 1:
            _ = self._node.tasks.start(self._follow_recovered(), name="following recovered VMs")

    async def _follow_recovered(self) -> None:
        for _ in range(_CALM_TRIES):
            seen = len(self._recovered)
            await asyncio.sleep(_CALM_S)
            if len(self._recovered) == seen:
                break
        recovered, self._recovered = self._recovered, []
        for number, vm in enumerate(recovered, start=1):
            vm.follow()
            if number % _FOLLOWED_AT_ONCE == 0:
                # Others have their turn.
                await asyncio.sleep(0)

    def _logs_for_recovery(self, state: VMState) -> TaskLogs:
        if not state.has_log:
            return NO_LOGS
        alloc_dir, task = state.record.alloc_dir, state.record.identity.task
        return opened_at_first_use(lambda: self._open_logs(Path(alloc_dir), task))

    async def destroy(self, vm: VM) -> None:
        """End a VM, remove its files and forget it. Idempotent.

        Raises:
            HostError: it does not die or its files cannot be removed; it is still managed, and
                reconcile tries again.
        """
        vm_id = vm.record.vm_id
        managed = self._managed.get(vm_id)
        if managed is None or managed.vm is not vm:
            await vm.destroy()
            return
        try:
            await vm.destroy()
        except BaseException:
            managed.is_unwanted = True
            raise
        # Its ports may be attached again as soon as this returns, by a restart in place.
        if managed.detaching is not None:
            await asyncio.wait({managed.detaching})
        if self._managed.get(vm_id) is not managed:
            # Another call for the same VM was there first.
            return
        del self._managed[vm_id]
        await managed.logs.close()
        if managed.health is not None:
            await managed.health.close()

    async def destroy_all(self) -> None:
        """End every managed VM and remove its files; what fails is logged and left to reconcile."""
        for result in await asyncio.gather(
            *(self.destroy(vm) for vm in self.vms), return_exceptions=True
        ):
            if isinstance(result, BaseException):
                log.error("VM not removed", exc_info=result)

    @property
    def problems(self) -> list[str]:
        """What an operator should know: VMs that run and nobody manages, what does not work."""
        return [*self._reconciler.problems, *self._troubles.lines()]

    def meter(self, vm: VM) -> UsageMeter:
        """Return the meter of a managed VM."""
        return self._managed[vm.record.vm_id].meter

    async def reconcile(self) -> list[str]:
        """Remove what has no live VM behind it; return the ids of the VMs removed.

        Images come last: one that a removed VM was the last to use goes with it.
        """
        # One that fails keeps none of the others from its turn.
        await self._attempt(self._destroy_unwanted, "removing VMs that have ended")
        removed = await self._attempt(
            lambda: self._reconciler.run(self._managed), "removing what is left of VMs"
        )
        await self._attempt(self._node.network.reconcile, "reconciling the network")
        await self._attempt(lambda: to_the_end(self._node.keeper.sweep), "removing unused images")
        await to_the_end(give_back_free_memory)
        return removed or []

    async def _destroy_unwanted(self) -> None:
        unwanted = [managed.vm for managed in self._managed.values() if managed.is_unwanted]
        results = await asyncio.gather(
            *(self.destroy(vm) for vm in unwanted), return_exceptions=True
        )
        for failure in results:
            if failure is not None:
                raise failure

    async def _attempt(self, work: Callable[[], Awaitable[T]], name: str) -> T | None:
        return await attempt(work, name=name, troubles=self._troubles)

    async def _pump(self) -> None:
        # The first look at a log takes longest, and recovering VMs comes first.
        if not self._recovered:
            await self.flush_logs()

    async def flush_logs(self) -> None:
        """Move what the guests have printed so far into the tasks' logs."""
        pumps = [pump for managed in self._managed.values() for pump in managed.logs.pumps]
        await self._log_worker.to_the_end(self._turns.poll, pumps)

    def _take(
        self,
        state: VMState,
        directory: VMDirectory,
        lock: DirectoryLock | None,
        logs: TaskLogs,
        tell: Tell,
    ) -> VM:
        vm_logs = VMLogs(
            directory, state.record.process, logs, self._node.config.logs, self._log_worker
        )
        earlier = read_usage(directory.usage_json)
        meter = UsageMeter(
            state.record.process,
            earlier.disk if earlier else DiskState(),
            overlay=directory.overlay,
        )
        disk = DiskGuard(directory, meter, reserve=self._node.config.disk.reserved, tell=tell)
        vm = VM(
            state,
            directory,
            lock=lock,
            logs=vm_logs,
            disk=disk,
            endings=self._endings,
            tasks=self._node.tasks,
            on_end=lambda: self._note_end(managed),
        )
        managed = _Managed(vm=vm, logs=vm_logs, meter=meter)
        self._managed[state.vm_id] = managed
        return vm

    def _note_end(self, managed: _Managed) -> None:
        end = managed.vm.exit
        if end is not None and not managed.is_counted:
            managed.is_counted = True
            self._report.count_end(kind_of(end))
        self._detach_soon(managed)

    def _detach_soon(self, managed: _Managed) -> None:
        name = f"detach {managed.vm.record.vm_id}"
        managed.detaching = self._node.tasks.start(self._detach(managed.vm), name=name)

    async def _detach(self, vm: VM) -> None:
        self._node.network.disown(vm.record.vm_id)
        await self._node.network.detach(vm.record.ports)
        if vm.record.has_user_mode:
            await self._node.network.unguard_host(vm.record.vm_id)

    async def _serve_health(self, vm: VM) -> None:
        endpoint = vm.state.health
        if endpoint is None or vm.exit is not None:
            return
        server = HealthServer(vm.agent)
        try:
            await server.listen(endpoint.host_ip, endpoint.port)
        except HostError as exc:
            # The VM runs; its health check will fail and say that nobody listens.
            log.warning("health port not served", extra={"error": str(exc)})
            return
        self._managed[vm.record.vm_id].health = server

    async def report(self) -> None:
        """Write down how the node is, for others of it: what was counted, and at times all."""
        await self._report.write(self.problems)

    async def _measure(self) -> None:
        """Write the usage of every VM.

        If one cannot be written, the others are: a QEMU that its guest has taken over can have a
        directory in the file's place.
        """
        drops = await self._drops()
        failure: Exception | None = None
        for managed in list(self._managed.values()):
            if managed.vm.exit is None:
                managed.meter.drops = drops_of(managed.vm.record.ports, drops)
                try:
                    await to_the_end(managed.meter.publish, managed.vm.directory.usage_json)
                except (HostError, OSError) as exc:
                    failure = exc
        self._troubles.note("writing down what a VM uses", failure)

    async def _drops(self) -> Mapping[str, Mapping[str, int]]:
        try:
            return await self._node.network.drops()
        except NodeError as exc:
            log.warning("drop counters not read", extra={"error": str(exc)})
            return {}


async def _lock_for_recovery(directory: VMDirectory) -> DirectoryLock | None:
    """Return the lock of a VM to recover; None where its directory cannot even be made.

    Raises:
        VMBusyError: another live driver manages the VM.
    """
    lock = DirectoryLock.try_acquire(directory.data)
    if lock is not None:
        return lock
    try:
        directory.create_data()
    except HostError as exc:
        log.warning("VM recovered without its directory", extra={"error": str(exc)})
        return None
    with contextlib.suppress(TimeoutError):
        # The driver before us may still be about to end.
        async with asyncio.timeout(_RECOVER_LOCK_TIMEOUT_S):
            while True:
                lock = DirectoryLock.try_acquire(directory.data)
                if lock is not None:
                    return lock
                await asyncio.sleep(0.1)
    raise VMBusyError(f"VM {directory.vm_id} is managed by another driver")
