"""A node for tests: the product's supervisor on directories of the test's own, logs in memory."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from qemu_node.config.images import ImagesConfig
from qemu_node.config.network import NetworkConfig
from qemu_node.config.node import DiskConfig, NodeConfig, Paths, QemuConfig
from qemu_node.host.cgroup import ScopeLimits
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.images.cache import ImageCache
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.prefetch import Prefetcher
from qemu_node.net.mac import stable_mac
from qemu_node.net.portspec import PortSpec, UserPort, tap_name
from qemu_node.qemu.accel.qemubinary import QemuBinary, find_qemu
from qemu_node.qemu.spec import Accelerator, DiskAio, FirmwareMode, Hardware, OsFamily, QemuVersion
from qemu_node.units import MIB
from qemu_node.vm.hypervisor import Hypervisor
from qemu_node.vm.life.machine import VM
from qemu_node.vm.names import TaskIdentity, vm_id
from qemu_node.vm.output.vmlogs import TaskLogs
from qemu_node.vm.record.outcome import VMExit
from qemu_node.vm.record.processes import _own_processes, running_vm_ids
from qemu_node.vm.services import NodeServices, Rights
from qemu_node.vm.start.request import VMRequest
from qemu_node.vm.supervisor import Supervisor
from qemu_node.vm.vmnetwork import Network

WAIT_S = 120.0
ALLOC_ID = "11111111-2222-3333-4444-555555555555"
T = TypeVar("T")


class VMNode:
    """One driver's worth of node; make a second one on the same root to play a restarted driver."""

    def __init__(
        self,
        root: Path,
        image: Path,
        *,
        qemu: QemuConfig | None = None,
        qemu_program: str | None = None,
        is_root: bool | None = None,
        shared_gid: int | None = None,
        images: ImagesConfig | None = None,
        network: Network | None = None,
        disk_reserve: str = "0%",
    ) -> None:
        """Make a node on `root` whose jobs may name what is beside `image`.

        Args:
            root: Where its directories are; short, because of the sockets.
            image: The image of its guests.
            qemu: Settings other than the defaults.
            qemu_program: A program in QEMU's place, which is not asked for its version.
            disk_reserve: What is kept free of the disk of its directories.
            is_root: Whether each VM gets a user of its own; by default where that is possible.
            shared_gid: The group that may use the VMs' sockets.
            images: Settings of images; by default jobs may name what is beside `image`.
            network: The node's network; by default one that has user mode only.
        """
        self.root = root
        self.image = image
        self._qemu_program = qemu_program
        self.paths = Paths(run=str(root / "r"), data=str(root / "d"))
        self.console: dict[str, bytearray] = {}
        self.words: dict[str, bytearray] = {}
        self.told: list[str] = []
        self.tasks = TaskOwner("test")
        images = images or ImagesConfig(image_paths=(str(image.parent),))
        cache = ImageCache(self.paths.images_dir, images, self.tasks)
        self.node = NodeServices(
            config=NodeConfig(
                paths=self.paths,
                qemu=qemu or QemuConfig(),
                images=images,
                disk=DiskConfig(reserve=disk_reserve),
            ),
            rights=Rights(
                is_root=os.geteuid() == 0 if is_root is None else is_root,
                shared_gid=shared_gid,
                kvm_gid=None,
            ),
            images=cache,
            keeper=ImageKeeper(self.paths.images_dir, self.paths.vm_data_dir, images),
            prefetcher=Prefetcher(cache.pull, images.prefetch, images.ttl_s),
            network=network or Network(self.paths, NetworkConfig(), None),
            tasks=self.tasks,
            hypervisor=self._hypervisor,
        )
        self.supervisor = Supervisor(self.node, self._open_logs)

    async def _hypervisor(self) -> Hypervisor:
        if self._qemu_program is None:
            binary = await find_qemu(self.node.config.qemu.binary)
        else:
            version = QemuVersion(major=7, minor=2, micro=22)
            binary = QemuBinary(path=self._qemu_program, version=version)
        return Hypervisor(
            binary=binary,
            accelerator=Accelerator.TCG,
            kvm_problem=None,
            aio=DiskAio.THREADS,
        )

    def _open_logs(self, _alloc_dir: Path, task_name: str) -> TaskLogs:
        stdout = self.console.setdefault(task_name, bytearray())
        stderr = self.words.setdefault(task_name, bytearray())
        return TaskLogs(stdout=stdout.extend, stderr=stderr.extend, close=lambda: None)

    def request(
        self,
        *,
        task: str = "vm",
        alloc_id: str = ALLOC_ID,
        firmware: FirmwareMode = FirmwareMode.BIOS,
        user_data: str = "",
        args: tuple[str, ...] = (),
        memory_mib: int = 512,
        nics: tuple[UserPort | PortSpec, ...] | None = None,
    ) -> VMRequest:
        """Return the request of a small guest; BIOS by default because it boots fastest."""
        alloc_dir = self.root / "alloc" / alloc_id
        latest = alloc_dir / task / "local" / "config-drive" / "openstack" / "latest"
        latest.mkdir(parents=True, exist_ok=True)
        (alloc_dir / "alloc" / "logs").mkdir(parents=True, exist_ok=True)
        if user_data:
            (latest / "user_data").write_text(user_data)
        identity = TaskIdentity(
            alloc_id=alloc_id,
            namespace="default",
            job_id="job",
            job_name="job",
            group="group",
            task=task,
            index=0,
            node_name="node",
        )
        return VMRequest(
            task_id=f"{alloc_id}/{task}/00000000",
            identity=identity,
            alloc_dir=alloc_dir,
            task_dir=alloc_dir / task,
            image=str(self.image),
            checksum=None,
            disk_size_bytes=None,
            hardware=Hardware(
                os=OsFamily.LINUX, firmware=firmware, vcpus=1, merge=True, watchdog=False
            ),
            memory_bytes=memory_mib * MIB,
            memory_max_bytes=memory_mib * MIB,
            nics=(UserPort(vm_id=identity.vm_id, index=0, mac=stable_mac(alloc_id, task, 0)),)
            if nics is None
            else nics,
            forwards=(),
            advertise=None,
            args=args,
            allow_exec=True,
            health=None,
            scope="",
            limits=ScopeLimits(
                memory_max_bytes=None, cpu_shares=100, cpuset_cpus="", pids_max=1024
            ),
            has_log=True,
        )

    def port(
        self,
        vlan: int | None,
        index: int = 0,
        *,
        task: str = "vm",
        alloc_id: str = ALLOC_ID,
        **more: Any,
    ) -> PortSpec:
        """Return a NIC of `request`'s VM in a VLAN; None for one with a trunk."""
        name = vm_id(alloc_id, task)
        return PortSpec(
            vm_id=name,
            index=index,
            ifname=tap_name(name, index),
            mac=stable_mac(alloc_id, task, index),
            vlan=vlan,
            **more,
        )

    async def start(self, request: VMRequest) -> VM:
        """Start a VM as the driver does."""
        return await self.supervisor.start(request, self.tell)

    def tell(self, text: str, _notes: dict[str, str]) -> None:
        """Hear what Nomad's task events would be."""
        self.told.append(text)

    async def printed(
        self, text: str, task: str = "vm", *, times: int = 1, timeout_s: float = WAIT_S
    ) -> str:
        """Return the guest's console once it holds `text` so many times."""

        async def pump() -> None:
            while True:
                await self.supervisor.flush_logs()
                await asyncio.sleep(0.05)

        pumping = asyncio.ensure_future(pump())
        try:
            return await until(
                lambda: self.console[task].decode(),
                lambda log: log.count(text) >= times,
                repr(text),
                timeout_s,
            )
        finally:
            pumping.cancel()

    async def ended(self, vm: VM, timeout_s: float = WAIT_S) -> VMExit:
        """Return how a VM ended, once its last words are in its logs."""
        async with asyncio.timeout(timeout_s):
            await vm.settle()
            return await vm.wait()

    def running(self) -> set[str]:
        """Return the ids of the VMs that have a process."""
        if self.node.rights.is_root:
            return running_vm_ids(self.paths.vm_data_dir)
        # Where root plays a user without a user per VM.
        return {vm_id for vm_id, _ in _own_processes(self.paths.vm_data_dir)}

    def leftovers(self) -> list[str]:
        """Return what a node without VMs should not have."""
        return [
            str(path.relative_to(self.root))
            for pattern in ("r/vm/*", "d/vm/[!.]*", "d/vm/.uid/*")
            for path in self.root.glob(pattern)
        ]

    async def crash(self) -> None:
        """Leave everything as SIGKILL of the driver would; this node is of no further use."""
        await self.tasks.aclose()
        await release(self.supervisor)

    async def restarted(self) -> "VMNode":
        """Let the driver's process end as SIGKILL would leave it, and return the next one."""
        await self.tasks.aclose()
        await release(self.supervisor)
        return VMNode(self.root, self.image)

    async def close(self) -> None:
        """End every VM of this node, then what the driver has of its own."""
        await self.supervisor.destroy_all()
        await self.tasks.aclose()
        await self.supervisor.aclose()
        await self.node.network.aclose()


async def release(supervisor: Supervisor) -> None:
    """Do for `supervisor` what the kernel does for a process that is gone; its VMs go on."""
    for managed in supervisor._managed.values():
        await managed.vm._qemu.disconnect()
        if managed.vm._lock is not None:
            managed.vm._lock.release()
        await managed.logs.close()
    supervisor._managed.clear()


async def until(
    probe: Callable[[], T], accept: Callable[[T], bool], what: str, timeout_s: float = WAIT_S
) -> T:
    """Return the first value of `probe` that `accept` takes; the last one is in the error."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    value = probe()
    while not accept(value):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"no {what} within {timeout_s:g} s; last: {value!r}")
        await asyncio.sleep(0.1)
        value = probe()
    return value
