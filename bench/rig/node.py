"""A node of the bench's own: directories, a guest that idles, and the real plugin process.

Owns what every bench needs before it can measure. The driver is the product's, started and called
as Nomad does, with nothing changed in it: what a bench wants different it says in node.toml.

The guest's disk holds a boot sector that halts, so a running guest uses its firmware's CPU time
and then none. A paused guest has not run at all: `[qemu] binary` names a script that adds `-S`.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qemu_node.host.process import command, identity, pidfd
from qemu_node.nomad.agent.encoding import encode_config
from qemu_node.nomad.agent.pluginclient import PluginClient
from qemu_node.nomad.proto import driver_pb2
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.run.driverlink import DriverInfo, DriverLink
from qemu_node.units import MIB
from qemu_node.vm.record.processes import find_vm_processes
from qemu_node.vm.record.record import VMRecord

DRIVER_ARGV = (sys.executable, "-m", "qemu_node", "driver")
TASK_NAME = "vm"
TASK_MEMORY_MIB = 256
"""A task's memory; about a third of it is the guest's under TCG."""

_PREFIX = "qn-bench-"
_SHARED_MEMORY = Path("/dev/shm")

HALT = b"\xfa\xf4\xeb\xfd"
"""cli; hlt; and back to hlt should anything wake it. BIOS loads the sector and runs it."""
DOTS = b"\xfb\xb9\x12\x00\xf4\xe2\xfd\xb8\x2e\x0e\xcd\x10\xeb\xf3"
"""sti; 18 times hlt, which BIOS's timer ends; a dot on the screen; again: a dot a second."""

# The driver's proof that an accelerator works runs a guest by another name and must not be paused.
_PAUSING_QEMU = """\
#!/bin/sh
case "$*" in
*guest={name}-*) exec "{qemu}" "$@" -S ;;
*) exec "{qemu}" "$@" ;;
esac
"""


class CannotRunError(Exception):
    """This machine lacks what a bench needs; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchNode:
    """The directories of one node, made for one bench."""

    root: Path
    image: Path
    node_toml: Path
    run_dir: Path
    """Where the driver keeps sockets and vm.json: in memory, as /run is on a node."""

    @property
    def data_dir(self) -> Path:
        """Where the driver keeps the VMs' files."""
        return self.root / "d"

    def record(self, vm_id: str) -> VMRecord:
        """Return what the driver has published of a VM."""
        path = self.run_dir / "vm" / vm_id / "vm.json"
        return msgspec.json.decode(path.read_bytes(), type=VMRecord)

    def published_at(self) -> list[float]:
        """Return the Unix times at which the VMs that there are were published."""
        return [path.stat().st_mtime for path in (self.run_dir / "vm").glob("*/vm.json")]


@contextmanager
def bench_node(*, is_paused: bool, boot_code: bytes = HALT) -> Generator[BenchNode]:
    """Give a node in a directory of its own, removed in the end.

    Args:
        is_paused: The guests do not run; else they run their firmware and `boot_code`.
        boot_code: Of the guests' disk, in real mode.

    Raises:
        CannotRunError: there is no QEMU.
    """
    qemu = shutil.which("qemu-system-x86_64", path=command.SAFE_ENV["PATH"])
    if qemu is None:
        raise CannotRunError("qemu-system-x86_64 is not installed")
    root, run_dir = (
        Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)) for parent in (None, _memory_dir())
    )
    try:
        # VMs run as users of their own and must reach their files.
        root.chmod(0o755)
        run_dir.chmod(0o755)
        image = root / "images" / "halt.raw"
        image.parent.mkdir()
        image.write_bytes((boot_code.ljust(510, b"\0") + b"\x55\xaa").ljust(MIB, b"\0"))
        node = BenchNode(root=root, image=image, node_toml=root / "node.toml", run_dir=run_dir)
        binary = Path(qemu)
        if is_paused:
            binary = root / "qemu-paused"
            binary.write_text(_PAUSING_QEMU.format(name=TASK_NAME, qemu=qemu))
            binary.chmod(0o755)
        node.node_toml.write_text(
            f'[paths]\nrun = "{node.run_dir}"\ndata = "{node.data_dir}"\n'
            f'[images]\nimage_paths = ["{image.parent}"]\n'
            f'[qemu]\nbinary = "{binary}"\n'
        )
        yield node
    finally:
        _clean_up(root)
        shutil.rmtree(run_dir, ignore_errors=True)


def _memory_dir() -> Path | None:
    """Return a directory in memory, or None for the usual temporary one."""
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None


def _clean_up(root: Path) -> None:
    """Remove a bench's directory, and VMs that outlived a bench which failed."""
    for _, vm in find_vm_processes(root / "d" / "vm"):
        pidfd.send_signal(vm, signal.SIGKILL)
    # An agent that did not end its tasks leaves a tmpfs mounted for the secrets of each.
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mount_point = line.split()[1]
        if mount_point.startswith(f"{root}/"):
            _ = command.run_blocking(["umount", mount_point], check=False)
    shutil.rmtree(root, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedVM:
    """A VM that the driver has started, and how long StartTask took."""

    task_id: str
    record: VMRecord
    took_s: float

    @property
    def process(self) -> identity.ProcessId:
        """The VM's QEMU."""
        return self.record.process


class BenchDriver:
    """The plugin process, called as Nomad calls it."""

    def __init__(self, node: BenchNode, client: PluginClient, link: DriverLink) -> None:
        self.node = node
        self.client = client
        self._link = link
        self._info: DriverInfo | None = None

    async def begin(self) -> None:
        """Configure the driver and wait until it is healthy.

        Raises:
            NodeError: no guest can start here.
        """
        self._info = await self._link.begin()

    @property
    def process(self) -> identity.ProcessId:
        """The plugin."""
        return self.client.process

    async def start(self, firmware: FirmwareMode = FirmwareMode.BIOS) -> StartedVM:
        """Start a VM of an allocation of its own; the time is that of the RPC alone."""
        task = self._task(firmware)
        begin = time.perf_counter()
        vm_id = await self._link.start(task)
        took_s = time.perf_counter() - begin
        return StartedVM(task_id=task.id, record=self.node.record(vm_id), took_s=took_s)

    async def destroy(self, vm: StartedVM) -> None:
        """End a VM and remove its files."""
        await self._link.destroy(vm.task_id)

    async def wait(self, vm: StartedVM) -> None:
        """Return when a VM has ended."""
        await self._link.wait(vm.task_id)

    async def read_stats(self, vm: StartedVM) -> None:
        """Take a VM's stats each second, Nomad's default interval, until it ends."""
        request = driver_pb2.TaskStatsRequest(task_id=vm.task_id)
        request.collection_interval.seconds = 1
        async for _ in self.client.driver.task_stats(request):
            pass

    def _task(self, firmware: FirmwareMode) -> driver_pb2.TaskConfig:
        """Make an allocation's directories and return its task."""
        assert self._info is not None
        alloc_id = str(uuid.uuid4())
        alloc_dir = self.node.root / "alloc" / alloc_id
        (alloc_dir / TASK_NAME / "local").mkdir(parents=True)
        (alloc_dir / "alloc" / "logs").mkdir(parents=True)
        options = {"image": str(self.node.image), "firmware": firmware.value}
        memory = driver_pb2.AllocatedMemoryResources(memory_mb=TASK_MEMORY_MIB)
        return driver_pb2.TaskConfig(
            id=f"{alloc_id}/{TASK_NAME}/0",
            name=TASK_NAME,
            alloc_id=alloc_id,
            alloc_dir=str(alloc_dir),
            namespace="default",
            job_id="bench",
            job_name="bench",
            task_group_name="bench",
            node_name="bench",
            msgpack_driver_config=encode_config(self._info.facts.task_schema, options),
            resources=driver_pb2.Resources(
                allocated_resources=driver_pb2.AllocatedTaskResources(memory=memory),
                linux_resources=driver_pb2.LinuxResources(cpu_shares=100),
            ),
        )


@asynccontextmanager
async def bench_driver(*, is_paused: bool, boot_code: bytes = HALT) -> AsyncGenerator[BenchDriver]:
    """Give a driver on a node of its own; in the end its VMs and the node are gone.

    Raises:
        CannotRunError: there is no QEMU.
        NodeError: the driver does not come up or is not healthy.
    """
    with bench_node(is_paused=is_paused, boot_code=boot_code) as node:
        # It ends its VMs when its stdin ends, so that not even a killed bench leaves any.
        reading, writing = os.pipe()
        try:
            client = await PluginClient.launch(
                [*DRIVER_ARGV, "--stop-with-parent"], env=os.environ, stdin_fd=reading
            )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        driver = BenchDriver(
            node, client, DriverLink(client.base, client.driver, config_path=node.node_toml)
        )
        try:
            await driver.begin()
            yield driver
        finally:
            os.close(writing)
            await client.wait_ended()
            await client.shutdown()
