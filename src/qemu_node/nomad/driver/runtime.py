"""What the driver is made of: the node's settings, its services, its health.

Owns building everything from node.toml, once, when the agent begins to use the plugin, and judging
the host again every half minute. Settings or a host that are wrong make the driver unhealthy with
the reason; they never keep the plugin, and with it the agent, from starting. Nor do they touch VMs
that run: those are recovered, watched and stopped all the same, and a file that is put right is
read within half a minute.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

from qemu_node.config import node as node_config
from qemu_node.config.node import NodeConfig
from qemu_node.errors import ConfigError, HostError, NodeError
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.process.users import group_id
from qemu_node.images.cache import ImageCache
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.prefetch import Prefetcher
from qemu_node.net.manager import PortManager
from qemu_node.nomad.driver.fingerprint import Fingerprint, build_fingerprint, read_host_facts
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task.options import PluginConfig
from qemu_node.nomad.task.tasklog import TaskLog
from qemu_node.vm.hypervisor import HypervisorFinder
from qemu_node.vm.output.vmlogs import TaskLogs
from qemu_node.vm.services import NodeServices, Rights
from qemu_node.vm.supervisor import Supervisor
from qemu_node.vm.vmnetwork import Network

log = logging.getLogger(__name__)

_FINGERPRINT_INTERVAL_S = 30.0
_SHARED_GROUP = "qemu-node"
_KVM_GROUP = "kvm"
_MHZ_UNKNOWN = 1000.0


class DriverRuntime:
    """Makes the `NodeServices` on first use, and judges the host for Nomad's fingerprint."""

    def __init__(self, config_path: Path | None = None) -> None:
        self.tasks = TaskOwner("driver")
        self.mhz_per_core = _MHZ_UNKNOWN
        """What Nomad reckons one core as; `total_ticks` of a task's stats are in MHz."""
        self._config_path = config_path
        self._rejected: NodeError | None = None
        self._problem: NodeError | None = ConfigError("the driver has not begun yet")
        self._config: NodeConfig | None = None
        self._supervisor: Supervisor | None = None
        self._beginning = asyncio.Lock()
        self._finder: HypervisorFinder | None = None
        self._network: Network | None = None

    # Settings

    def configure(self, plugin: PluginConfig) -> None:
        """Take the settings of the agent's plugin block; node.toml is read when work begins."""
        if plugin.config is not None:
            self._config_path = Path(plugin.config)

    def reject(self, problem: ConfigError) -> None:
        """Remember that the plugin block is wrong."""
        self._rejected = problem

    async def begin(self) -> None:
        """Read node.toml and begin to serve, unless done already.

        Where that fails, the VMs that run are served, and `supervisor` says why no other is.
        """
        async with self._beginning:
            if self._config is not None:
                return
            if self._supervisor is None:
                # Of these settings only what recovered VMs need is used.
                bare = self._build_node(NodeConfig(), manager=None)
                self._supervisor = Supervisor(bare, self._open_logs)
                self._supervisor.watch()
            try:
                config = self._load()
                node = self._build_node(config, self._port_manager(config))
            except Exception as exc:  # whatever it is, the agent must start and VMs be served
                problem = _as_problem(exc)
                if str(problem) != str(self._problem):
                    log.exception("driver starts no VM", extra={"reason": problem.explain()})
                self._problem = problem
                return
            self._supervisor.use(node)
            self._supervisor.begin()
            self._config, self._problem = config, None

    def _load(self) -> NodeConfig:
        if self._rejected is not None:
            raise self._rejected
        return node_config.load(self._config_path)

    async def aclose(self) -> None:
        """Stop serving; the VMs go on."""
        await self.tasks.aclose()
        if self._supervisor is not None:
            await self._supervisor.aclose()
        if self._network is not None:
            await self._network.aclose()

    async def destroy_all(self) -> None:
        """End every VM of this process and remove its files."""
        if self._supervisor is not None:
            await self._supervisor.destroy_all()

    # What the driver uses

    def supervisor(self) -> Supervisor:
        """Return the VMs of this node, to start one.

        Raises:
            NodeError: node.toml is wrong.
        """
        if self._problem is not None:
            raise self._problem
        return self.vms

    @property
    def vms(self) -> Supervisor:
        """The VMs of this node: those that run are served whatever node.toml says."""
        assert self._supervisor is not None, "begin comes first"
        return self._supervisor

    @property
    def config(self) -> NodeConfig:
        """What node.toml says; the defaults until it could be read."""
        return self._config or NodeConfig()

    async def flush_logs(self) -> None:
        """Move what the guests have printed so far into the tasks' logs."""
        if self._supervisor is not None:
            await self._supervisor.flush_logs()

    # Health

    async def fingerprints(self) -> AsyncIterator[driver_pb2.FingerprintResponse]:
        """Yield the node's health now and whenever it changes."""
        last: Fingerprint | None = None
        while True:
            await self.begin()
            try:
                current = await self._judge()
            except Exception as exc:  # the stream would end, and Nomad not know why
                log.exception("host not judged")
                current = build_fingerprint(None, _as_problem(exc), None)
            if current != last:
                last = current
                log.info("fingerprint", extra={"health": current.description})
                yield current.to_response()
            await asyncio.sleep(_FINGERPRINT_INTERVAL_S)

    async def _judge(self) -> Fingerprint:
        if self._config is None:
            return build_fingerprint(None, self._problem, None)
        assert self._finder is not None
        assert self._network is not None
        problems = await self._network.problems()
        supervisor = self.supervisor()
        facts = read_host_facts(
            self._config,
            problems,
            supervisor.problems,
            is_short_of_files=supervisor.admission.is_full,
        )
        try:
            hypervisor = await self._finder.look()
        except NodeError as exc:
            return build_fingerprint(None, exc, facts)
        return build_fingerprint(hypervisor, None, facts)

    # Building

    def _port_manager(self, config: NodeConfig) -> PortManager | None:
        if os.geteuid() != 0:
            return None
        first = config.qemu.first_uid
        return PortManager(
            config.network,
            identity=config.paths.data,
            uids=range(first, first + config.qemu.uid_count),
        )

    def _build_node(self, config: NodeConfig, manager: PortManager | None) -> NodeServices:
        rights = _own_rights()
        self._finder = HypervisorFinder(
            config.qemu, config.paths, is_root=rights.is_root, kvm_gid=rights.kvm_gid
        )
        self._network = Network(config.paths, config.network, manager)
        keeper = ImageKeeper(
            config.paths.images_dir,
            config.paths.vm_data_dir,
            config.images,
            reserve=config.disk.reserved,
        )
        images = ImageCache(
            config.paths.images_dir,
            config.images,
            self.tasks,
            reserve=config.disk.reserved,
            make_room=keeper.make_room,
        )
        return NodeServices(
            config=config,
            rights=rights,
            images=images,
            keeper=keeper,
            prefetcher=Prefetcher(images.pull, config.images.prefetch, config.images.ttl_s),
            network=self._network,
            tasks=self.tasks,
            hypervisor=self._finder.find,
        )

    def _open_logs(self, alloc_dir: Path, task_name: str) -> TaskLogs:
        """Open a task's log files, which `nomad alloc logs` reads."""
        limits = self.config.logs
        stdout, stderr = (
            TaskLog(
                alloc_dir / "alloc" / "logs",
                task_name,
                stream,
                max_files=limits.max_files,
                max_file_bytes=limits.max_file_bytes,
            )
            for stream in ("stdout", "stderr")
        )

        def close() -> None:
            stdout.close()
            stderr.close()

        return TaskLogs(stdout=stdout.write, stderr=stderr.write, close=close)


def _as_problem(exc: Exception) -> NodeError:
    """Return an error for people; a fault of ours is named as one."""
    if isinstance(exc, NodeError):
        return exc
    return HostError(
        f"a fault in the driver: {type(exc).__name__}: {exc}", hint="the agent's log has more"
    )


def _own_rights() -> Rights:
    if os.geteuid() != 0:
        return Rights(is_root=False, shared_gid=None, kvm_gid=None)
    return Rights(is_root=True, shared_gid=group_id(_SHARED_GROUP), kvm_gid=group_id(_KVM_GROUP))
