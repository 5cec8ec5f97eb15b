"""Nomad's RPCs, called on the driver itself: a task's whole life, unknown ids, mistakes, repeats.

A real QEMU whose guest has nothing to boot, but for the one test that waits for a guest agent.
"""

import asyncio
import contextlib
import resource
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.fake_qemu import fake_qemu, fake_qemu_with_qmp
from fakes.image_server import ImageServer, Resource
from integration.vmnode import VMNode, release, until

from qemu_node.errors import HostError, JobError, MissingPartError, NodeError
from qemu_node.host import limits
from qemu_node.host.files import tree
from qemu_node.host.process import identity, pidfd
from qemu_node.nomad.agent.calls import driver_calls
from qemu_node.nomad.driver.driver import (
    VMDriver,
)
from qemu_node.nomad.driver.runtime import DriverRuntime
from qemu_node.nomad.driver.vmplugin import VMPlugin
from qemu_node.nomad.plugin.grpcstatus import PluginError, TaskNotFoundError, UnsupportedError
from qemu_node.nomad.plugin.rpc import CHANNEL_OPTIONS, grpc, unix_target
from qemu_node.nomad.plugin.server import PluginServer
from qemu_node.nomad.plugin.service import DriverService
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task.task import NotRunningError, StartLostError, Task
from qemu_node.qemu.accel.accelerator import AcceleratorChoice
from qemu_node.qemu.accel.qemubinary import find_qemu
from qemu_node.qemu.spec import Accelerator
from qemu_node.vm.admission import BASE_RESERVE, OpenFilesError
from qemu_node.vm.record.directory import VMBusyError
from qemu_node.vm.record.outcome import VMExit
from qemu_node.vm.record.record import StateError, VMState

pytestmark = pytest.mark.timeout(300)

real_qemu = pytest.mark.needs_qemu

ALLOC_ID = "11111111-2222-3333-4444-555555555555"
TASK_ID = f"{ALLOC_ID}/vm/00000000"
HEALTHY = driver_pb2.FingerprintResponse.HEALTHY
UNHEALTHY = driver_pb2.FingerprintResponse.UNHEALTHY


class NomadNode:
    """What the driver finds on a node: node.toml, an allocation, an image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.network = "allow_host = true"
        """The section `[network]`; by default one that leaves no filter on this machine."""
        self.node_toml = root / "node.toml"
        self.image = root / "images" / "empty.raw"
        self.image_url = ""
        self.image.parent.mkdir()
        with self.image.open("wb") as image:
            image.truncate(1 << 20)
        self.alloc_dir = root / "alloc" / ALLOC_ID
        self.logs = self.alloc_dir / "alloc" / "logs"
        self.logs.mkdir(parents=True)
        self.configure()

    def configure(self, binary: str = "qemu-system-x86_64", more: str = "") -> None:
        """Write node.toml."""
        self.node_toml.write_text(
            f'[paths]\nrun = "{self.root}/r"\ndata = "{self.root}/d"\n'
            f"[network]\n{self.network}\n"
            f'[images]\nimage_paths = ["{self.image.parent}"]\n'
            'allow_networks = ["127.0.0.0/8"]\n'
            f'[qemu]\naccelerator = "tcg"\nbinary = "{binary}"\n{more}\n'
        )

    def task(
        self,
        *,
        task_id: str = TASK_ID,
        name: str = "vm",
        memory_mb: int = 512,
        ports: dict[str, int] | None = None,
        **options: Any,
    ) -> driver_pb2.TaskConfig:
        """Return the configuration of a task as Nomad sends it."""
        (self.alloc_dir / name / "local").mkdir(parents=True, exist_ok=True)
        config = {"image": str(self.image), "firmware": "bios", **options}
        return driver_pb2.TaskConfig(
            id=task_id,
            name=name,
            msgpack_driver_config=msgspec.msgpack.encode(config),
            alloc_id=ALLOC_ID,
            alloc_dir=str(self.alloc_dir),
            job_id="job",
            job_name="job",
            task_group_name="group",
            namespace="default",
            node_name="node",
            env={"NOMAD_ALLOC_INDEX": "0"},
            resources=driver_pb2.Resources(
                allocated_resources=driver_pb2.AllocatedTaskResources(
                    memory=driver_pb2.AllocatedMemoryResources(memory_mb=memory_mb)
                ),
                linux_resources=driver_pb2.LinuxResources(cpu_shares=100),
                ports=[
                    driver_pb2.PortMapping(label=label, value=port, host_ip="127.0.0.1")
                    for label, port in (ports or {}).items()
                ],
            ),
        )

    def log(self, stream: str, task: str = "vm") -> str:
        """Return what is in a task's first log file."""
        return (self.logs / f"{task}.{stream}.0").read_text()

    def vms(self) -> VMNode:
        """Return a look at the VMs' files."""
        return VMNode(self.root, self.image)


@pytest.fixture
def nomad(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NomadNode:
    async def without_proof(*_: object) -> AcceleratorChoice:
        return AcceleratorChoice(accelerator=Accelerator.TCG)

    # The proof boots a firmware, which is tested elsewhere.
    monkeypatch.setattr("qemu_node.vm.hypervisor.choose_accelerator", without_proof)
    return NomadNode(short_tmp_path)


@contextlib.asynccontextmanager
async def driver_on(nomad: NomadNode, *, keep: bool = False) -> AsyncIterator[VMDriver]:
    """Give a driver; in the end its VMs are destroyed or, with `keep`, left as SIGKILL would."""
    runtime = DriverRuntime(nomad.node_toml)
    driver = VMDriver(runtime)
    try:
        yield driver
    finally:
        if not keep:
            await runtime.destroy_all()
        await runtime.aclose()
        if keep:
            await release(runtime.vms)


@pytest.fixture
async def driver(nomad: NomadNode) -> AsyncIterator[VMDriver]:
    async with driver_on(nomad) as driver:
        yield driver


async def start(driver: VMDriver, config: driver_pb2.TaskConfig) -> driver_pb2.TaskHandle:
    response = await driver.start_task(driver_pb2.StartTaskRequest(task=config))
    assert response.result == driver_pb2.StartTaskResponse.SUCCESS
    return response.handle


async def stop(driver: VMDriver, timeout_s: float, task_id: str = TASK_ID) -> None:
    request = driver_pb2.StopTaskRequest(task_id=task_id)
    request.timeout.FromMilliseconds(int(timeout_s * 1000))
    await driver.stop_task(request)


async def destroy(driver: VMDriver, task_id: str = TASK_ID) -> None:
    await driver.destroy_task(driver_pb2.DestroyTaskRequest(task_id=task_id, force=True))


async def inspect(driver: VMDriver, task_id: str = TASK_ID) -> driver_pb2.InspectTaskResponse:
    return await driver.inspect_task(driver_pb2.InspectTaskRequest(task_id=task_id))


async def wait(driver: VMDriver, task_id: str = TASK_ID) -> driver_pb2.WaitTaskResponse:
    async with asyncio.timeout(60):
        return await driver.wait_task(driver_pb2.WaitTaskRequest(task_id=task_id))


async def stats(driver: VMDriver) -> driver_pb2.TaskStatsResponse:
    """Return the first figures of a task, which come when its VM runs."""
    async with asyncio.timeout(60):
        return await anext(aiter(driver.task_stats(driver_pb2.TaskStatsRequest(task_id=TASK_ID))))


async def recover(driver: VMDriver, handle: driver_pb2.TaskHandle) -> None:
    # Nomad's client leaves task_id empty.
    await driver.recover_task(driver_pb2.RecoverTaskRequest(handle=handle))


def state_of(handle: driver_pb2.TaskHandle) -> VMState:
    return VMState.decode(handle.driver_state, "handle")


async def events(driver: VMDriver) -> list[driver_pb2.DriverTaskEvent]:
    """Return the events that nobody has listened to yet."""
    told: list[driver_pb2.DriverTaskEvent] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            async for event in driver.task_events(driver_pb2.TaskEventsRequest()):
                told.append(event)  # noqa: PERF401 - cut off by the timeout
    return told


def tasks(nomad: NomadNode, count: int) -> list[driver_pb2.TaskConfig]:
    names = [f"vm{number}" for number in range(count)]
    return [nomad.task(task_id=f"{ALLOC_ID}/{name}/0", name=name) for name in names]


# A life


@real_qemu
async def test_a_task_is_started_seen_stopped_and_destroyed(
    driver: VMDriver, nomad: NomadNode
) -> None:
    handle = await start(driver, nomad.task())
    state = state_of(handle)
    assert (handle.version, handle.state) == (1, driver_pb2.TaskState.RUNNING)
    assert handle.config.id == TASK_ID

    seen = await inspect(driver)
    assert (seen.task.id, seen.task.state) == (TASK_ID, driver_pb2.TaskState.RUNNING)
    assert seen.task.started_at.ToSeconds() == pytest.approx(time.time(), abs=120)
    assert seen.task.HasField("completed_at")
    assert seen.driver.attributes["vm_id"] == state.vm_id
    assert seen.driver.attributes["pid"] == str(state.record.pid)

    request = driver_pb2.TaskStatsRequest(task_id=TASK_ID)
    request.collection_interval.FromMilliseconds(50)
    stats = driver.task_stats(request)
    first = await anext(aiter(stats))
    second = await anext(aiter(stats))
    assert first.stats.id == TASK_ID
    assert second.stats.agg_resource_usage.cpu.percent >= 0
    assert second.stats.timestamp.ToNanoseconds() > first.stats.timestamp.ToNanoseconds()

    (event,) = await events(driver)
    assert (event.task_id, event.alloc_id, event.task_name) == (TASK_ID, ALLOC_ID, "vm")
    assert state.vm_id in event.message

    assert nomad.log("stdout") == ""
    waiting = asyncio.ensure_future(wait(driver))
    await stop(driver, 1.0)
    outcome = await waiting
    assert (outcome.result.exit_code, outcome.result.signal, outcome.err) == (137, 9, "")
    seen = await inspect(driver)
    assert seen.task.state == driver_pb2.TaskState.EXITED
    assert seen.task.completed_at.ToSeconds() >= seen.task.started_at.ToSeconds()
    assert [response async for response in stats] == []
    # Answered at once, and as often as asked.
    assert await wait(driver) == outcome
    await stop(driver, 1.0)
    assert nomad.vms().leftovers() != []
    await destroy(driver)
    assert nomad.vms().leftovers() == []
    assert not identity.is_alive(state.record.process)
    with pytest.raises(TaskNotFoundError):
        await inspect(driver)


@real_qemu
async def test_a_vm_costs_the_driver_three_open_files(driver: VMDriver, nomad: NomadNode) -> None:
    first, *others = tasks(nomad, 4)
    await start(driver, first)
    before = limits.read_open_files().used
    for config in others:
        await start(driver, config)
    assert limits.read_open_files().used - before <= 3 * len(others)


@real_qemu
async def test_a_driver_short_of_open_files_refuses_a_start_and_stops_what_runs(
    driver: VMDriver, nomad: NomadNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, refused = tasks(nomad, 2)
    await start(driver, running)
    soft_and_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = limits.read_open_files().used + BASE_RESERVE
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, soft_and_hard[1]))
        with pytest.raises(OpenFilesError, match=f"of {few} files are open") as told:
            await start(driver, refused)
        assert told.value.retry
        health = await anext(aiter(driver.fingerprint(driver_pb2.FingerprintRequest())))
        assert (health.health, "LimitNOFILE" in health.health_description) == (UNHEALTHY, True)
        await stop(driver, 0.0, running.id)
        assert (await wait(driver, running.id)).result.exit_code == 137
        await destroy(driver, running.id)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, soft_and_hard)
    assert nomad.vms().leftovers() == []
    assert "files are open" in nomad.log("stderr", refused.name)


@real_qemu
async def test_qemu_keeps_the_limit_of_open_files_that_the_driver_was_started_with(
    driver: VMDriver, nomad: NomadNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (await find_qemu("qemu-system-x86_64")).version.at_least(10):
        pytest.skip("this QEMU raises its limit itself (os-posix.c, os_setup_limits)")
    monkeypatch.setattr(limits, "_before_raise", 777)
    handle = await start(driver, nomad.task())
    assert limits.read_open_files_limit(state_of(handle).record.pid) == 777


async def test_unknown_ids_are_not_found_and_harmless_to_end(driver: VMDriver) -> None:
    for call in (
        driver.inspect_task(driver_pb2.InspectTaskRequest(task_id="x")),
        driver.wait_task(driver_pb2.WaitTaskRequest(task_id="x")),
        driver.exec_task(driver_pb2.ExecTaskRequest(task_id="x", command=["true"])),
        anext(aiter(driver.task_stats(driver_pb2.TaskStatsRequest(task_id="x")))),
    ):
        with pytest.raises(TaskNotFoundError):
            await call
    await stop(driver, 1.0, "x")
    await destroy(driver, "x")
    await destroy(driver, "x")


@real_qemu
async def test_exec_is_refused_where_the_job_does_not_allow_it(
    driver: VMDriver, nomad: NomadNode
) -> None:
    await start(driver, nomad.task())
    with pytest.raises(JobError, match="not allowed by this job"):
        await driver.exec_task(driver_pb2.ExecTaskRequest(task_id=TASK_ID, command=["id"]))

    async def requests() -> AsyncIterator[driver_pb2.ExecTaskStreamingRequest]:
        setup = driver_pb2.ExecTaskStreamingRequest.Setup(task_id=TASK_ID, command=["id"])
        yield driver_pb2.ExecTaskStreamingRequest(setup=setup)

    words, end = [message async for message in driver.exec_task_streaming(requests())]
    assert b"not allowed by this job" in words.stderr.data
    assert (end.exited, end.result.exit_code) == (True, 126)


@real_qemu
async def test_a_vm_that_comes_up_as_its_caller_goes_away_is_removed(
    nomad: NomadNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Task.started

    async def cancelled(task: Task, is_late: asyncio.Event) -> bool:
        assert await started(task, is_late)
        raise asyncio.CancelledError

    monkeypatch.setattr(Task, "started", cancelled)
    async with driver_on(nomad) as driver:
        with pytest.raises(NodeError, match="was stopped while it was being started"):
            await start(driver, nomad.task())
        assert nomad.vms().running() == set()
        assert nomad.vms().leftovers() == []


@pytest.fixture
async def slow(nomad: NomadNode) -> AsyncIterator[Resource]:
    """An image whose download stands still after its first half."""
    async with ImageServer.running() as server:
        body = bytes(1 << 20)
        resource = Resource(body=body, etag='"1"', pause_at=len(body) // 2)
        nomad.image_url = server.put("/slow.raw", resource)
        nomad.configure()
        yield resource


@real_qemu
async def test_a_start_whose_image_takes_long_goes_on_behind_its_answer(
    nomad: NomadNode, slow: Resource
) -> None:
    async with driver_on(nomad) as driver:
        handle = await start(driver, nomad.task(image=nomad.image_url))
        assert b"slow.raw" not in handle.driver_state
        waiting = asyncio.ensure_future(wait(driver))
        assert (await inspect(driver)).task.state == driver_pb2.TaskState.RUNNING
        with pytest.raises(NotRunningError):
            await driver.exec_task(driver_pb2.ExecTaskRequest(task_id=TASK_ID, command=["id"]))
        with pytest.raises(NodeError, match="started already"):
            await start(driver, nomad.task(image=nomad.image_url))
        slow.resume.set()
        assert (await stats(driver)).stats.id == TASK_ID
        assert len(nomad.vms().running()) == 1
        await stop(driver, 0)
        assert (await waiting).result.exit_code == 137
        await destroy(driver)
        assert nomad.vms().leftovers() == []


async def test_a_stop_ends_the_wait_for_an_image_at_once_and_the_download_goes_on(
    nomad: NomadNode, slow: Resource
) -> None:
    async with driver_on(nomad) as driver:
        await start(driver, nomad.task(image=nomad.image_url))
        await stop(driver, 30)
        outcome = await wait(driver)
        assert (outcome.result.exit_code, outcome.err) == (0, "")
        assert (await inspect(driver)).task.state == driver_pb2.TaskState.EXITED
        await destroy(driver)
        assert nomad.vms().leftovers() == []
        slow.resume.set()
        blobs = nomad.root / "d" / "images" / "blobs"
        await until(lambda: list(blobs.iterdir()), bool, "the whole image", 60)


async def test_a_download_that_fails_behind_the_answer_ends_the_task_with_its_reason(
    nomad: NomadNode, slow: Resource
) -> None:
    async with driver_on(nomad) as driver:
        await start(driver, nomad.task(image=nomad.image_url, checksum=f"sha256:{'0' * 64}"))
        slow.resume.set()
        outcome = await wait(driver)
        assert outcome.result.exit_code == 1
        assert "the VM did not start" in outcome.err
        assert "slow.raw" in outcome.err
        await destroy(driver)
        assert nomad.vms().leftovers() == []


@real_qemu
async def test_a_task_started_behind_the_answer_is_recovered_by_the_state_it_has_left(
    nomad: NomadNode, slow: Resource
) -> None:
    async with driver_on(nomad, keep=True) as driver:
        handle = await start(driver, nomad.task(image=nomad.image_url))
        slow.resume.set()
        await stats(driver)
    async with driver_on(nomad) as driver:
        await recover(driver, handle)
        assert (await inspect(driver)).task.state == driver_pb2.TaskState.RUNNING
        assert len(nomad.vms().running()) == 1


@pytest.mark.usefixtures("slow")
async def test_a_start_that_the_driver_did_not_survive_is_no_task_to_recover(
    nomad: NomadNode,
) -> None:
    async with driver_on(nomad) as driver:
        handle = await start(driver, nomad.task(image=nomad.image_url))
    async with driver_on(nomad) as driver:
        with pytest.raises(StartLostError, match="the task starts again"):
            await recover(driver, handle)
        await destroy(driver)
        assert nomad.vms().leftovers() == []


async def test_nomad_learns_nothing_of_a_start_that_ends_with_the_driver(
    nomad: NomadNode, slow: Resource
) -> None:
    assert not slow.resume.is_set()
    async with driver_on(nomad) as driver:
        await start(driver, nomad.task(image=nomad.image_url))
        waiting = asyncio.ensure_future(wait(driver))
        await driver._runtime.aclose()
        assert nomad.vms().leftovers() == []
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()


@real_qemu
async def test_a_job_without_logs_has_none_after_a_recovery_either(nomad: NomadNode) -> None:
    config = nomad.task()
    config.stdout_path = config.stderr_path = "/dev/null"
    async with driver_on(nomad, keep=True) as driver:
        handle = await start(driver, config)
    async with driver_on(nomad) as driver:
        await recover(driver, handle)
        await stop(driver, 0)
        await wait(driver)
        await destroy(driver)
    assert list(nomad.logs.iterdir()) == []


@real_qemu
async def test_a_signal_is_refused_with_what_to_do_about_it(
    driver: VMDriver, nomad: NomadNode
) -> None:
    await start(driver, nomad.task())
    with pytest.raises(UnsupportedError, match="a VM cannot be sent SIGHUP"):
        await driver.signal_task(driver_pb2.SignalTaskRequest(task_id=TASK_ID, signal="SIGHUP"))


# Starts the watchdog without a driver: a fast clock, then the bit that enables it (hw/watchdog,
# wdt_i6300esb.c; registers ESB_CONFIG and ESB_LOCK).
_HALT_UNDER_WATCHDOG = """#!/bin/sh
config=/sys/bus/pci/devices/0000:00:08.0/config
printf '\\004\\000' | dd of=$config bs=2 seek=48 conv=notrunc
printf '\\002' | dd of=$config bs=1 seek=104 conv=notrunc
halt -f
"""


@real_qemu
async def test_a_guest_that_halts_is_ended_by_the_watchdog_of_its_job(
    driver: VMDriver, nomad: NomadNode, small_guest_image: Path
) -> None:
    image = shutil.copy(small_guest_image, nomad.image.with_name("small.qcow2"))
    # Under Secure Boot the kernel lets nobody write to a device's registers.
    config = nomad.task(image=str(image), firmware="uefi", watchdog=True)
    latest = nomad.alloc_dir / "vm" / "local" / "config-drive" / "openstack" / "latest"
    latest.mkdir(parents=True)
    (latest / "user_data").write_text(_HALT_UNDER_WATCHDOG)
    await start(driver, config)
    async with asyncio.timeout(200):
        outcome = await driver.wait_task(driver_pb2.WaitTaskRequest(task_id=TASK_ID))
    assert outcome.result.exit_code == 1
    assert outcome.err == "the guest hung or halted: it no longer fed its watchdog"


@real_qemu
async def test_a_task_is_destroyed_while_it_runs(driver: VMDriver, nomad: NomadNode) -> None:
    state = state_of(await start(driver, nomad.task()))
    waiting = asyncio.ensure_future(wait(driver))
    await asyncio.sleep(0)
    await destroy(driver)
    assert not identity.is_alive(state.record.process)
    assert nomad.vms().leftovers() == []
    assert (await waiting).result.exit_code == 137


@real_qemu
async def test_a_task_whose_files_cannot_be_removed_is_started_anew(
    driver: VMDriver, nomad: NomadNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = state_of(await start(driver, nomad.task()))

    def fail(path: Path) -> None:
        raise HostError(f"cannot remove {path}: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(tree, "remove_tree", fail)
        with pytest.raises(HostError):
            await destroy(driver)
        with pytest.raises(HostError, match="Input/output error"):
            await start(driver, nomad.task())
    new = state_of(await start(driver, nomad.task()))
    assert not identity.is_alive(old.record.process)
    assert identity.is_alive(new.record.process)


@real_qemu
async def test_a_task_that_runs_is_destroyed_by_force_only(
    driver: VMDriver, nomad: NomadNode
) -> None:
    state = state_of(await start(driver, nomad.task()))
    unforced = driver_pb2.DestroyTaskRequest(task_id=TASK_ID, force=False)
    with pytest.raises(NodeError, match=TASK_ID):
        await driver.destroy_task(unforced)
    assert identity.is_alive(state.record.process)
    assert (await inspect(driver)).task.state == driver_pb2.TaskState.RUNNING
    await stop(driver, 0.0)
    await driver.destroy_task(unforced)
    assert nomad.vms().leftovers() == []


@real_qemu
async def test_a_guest_answers_for_its_health_and_prints_into_the_task_s_log(
    driver: VMDriver, nomad: NomadNode, small_guest_image: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    image = shutil.copy(small_guest_image, nomad.image.with_name("small.qcow2"))
    config = nomad.task(
        image=str(image),
        ports={"health": port},
        health_port="health",
        guest_agent={"allow_exec": True},
    )
    await start(driver, config)
    assert (await http_status(port))[0] == 503
    begin = time.monotonic()
    while (answer := await http_status(port))[0] != 200:
        assert time.monotonic() - begin < 150, answer
        await asyncio.sleep(0.5)
    await until(lambda: nomad.log("stdout"), lambda text: "small guest ready" in text, "console")
    done = await driver.exec_task(
        driver_pb2.ExecTaskRequest(task_id=TASK_ID, command=["/bin/sh", "-c", "echo hi; exit 3"])
    )
    assert (done.stdout, done.result.exit_code) == (b"hi\n", 3)
    await stop(driver, 60)
    outcome = await wait(driver)
    assert (outcome.result.exit_code, outcome.err) == (0, "")
    await destroy(driver)
    with pytest.raises(OSError, match=r"Connect call failed"):
        await http_status(port)
    assert "small guest ready" in nomad.log("stdout")


async def http_status(port: int) -> tuple[int, str]:
    """Return what the health port answers: status and text."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            answer = (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()
    return int(answer.split(" ", 2)[1]), answer.rpartition("\r\n\r\n")[2]


# Starts that fail


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imge": "x"}, "imge"),
        ({"image": 7}, '"image"'),
        ({"image": "nothing.qcow2"}, "nothing.qcow2"),
        ({"firmware": "coreboot"}, "coreboot"),
        ({"health_port": "http"}, "no port"),
        ({"memory_mb": 1}, "memory"),
        ({"args": ["-machine", "none"]}, "-machine"),
    ],
)
@real_qemu
async def test_a_mistake_in_the_job_is_named_and_nothing_is_left(
    driver: VMDriver, nomad: NomadNode, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(JobError) as caught:
        await start(driver, nomad.task(**changes))
    assert words in caught.value.explain()
    assert not caught.value.retry
    assert nomad.vms().leftovers() == []
    with pytest.raises(TaskNotFoundError):
        await inspect(driver)


async def test_the_task_s_stderr_says_why_its_start_failed(
    nomad: NomadNode, short_tmp_path: Path
) -> None:
    nomad.configure(fake_qemu(short_tmp_path, "echo 'a bad day' >&2; exit 3"))
    async with driver_on(nomad) as driver:
        with pytest.raises(HostError, match="a bad day"):
            await start(driver, nomad.task())
    assert "VM did not start" in nomad.log("stderr")
    assert "a bad day" in nomad.log("stderr")
    assert nomad.log("stdout") == ""
    assert nomad.vms().leftovers() == []


async def test_a_node_without_qemu_is_unhealthy_and_starts_nothing(nomad: NomadNode) -> None:
    nomad.configure("qemu-system-nothing")
    async with driver_on(nomad) as driver:
        health = await anext(aiter(driver.fingerprint(driver_pb2.FingerprintRequest())))
        assert health.health == UNHEALTHY
        assert "apt install qemu-system-x86" in health.health_description
        with pytest.raises(MissingPartError, match="not installed"):
            await start(driver, nomad.task())
    assert "apt install qemu-system-x86" in nomad.log("stderr")


async def test_a_qemu_that_is_no_qemu_or_may_not_be_run_makes_the_node_unhealthy(
    nomad: NomadNode, short_tmp_path: Path
) -> None:
    impostor = short_tmp_path / "qemu"
    impostor.write_text("#!/bin/sh\necho GNU bash, version 5\n")
    for mode, words in ((0o755, "not a QEMU"), (0o644, "not installed")):
        impostor.chmod(mode)
        nomad.configure(str(impostor))
        async with driver_on(nomad) as driver:
            health = await anext(aiter(driver.fingerprint(driver_pb2.FingerprintRequest())))
            assert health.health == UNHEALTHY
            assert words in health.health_description


@real_qemu
async def test_a_node_without_firmware_is_unhealthy_with_the_package_and_still_runs_bios_guests(
    nomad: NomadNode,
) -> None:
    nomad.configure(more=f'firmware_dirs = ["{nomad.root}/nothing"]')
    async with driver_on(nomad) as driver:
        health = await anext(aiter(driver.fingerprint(driver_pb2.FingerprintRequest())))
        assert health.health == UNHEALTHY
        assert "apt install ovmf" in health.health_description
        assert health.attributes["driver.vm.firmware"].string_val == "bios"
        with pytest.raises(MissingPartError) as caught:
            await start(driver, nomad.task(firmware="secure-boot"))
        assert "apt install ovmf" in caught.value.explain()
        await start(driver, nomad.task(task_id="other"))


async def test_a_wrong_node_toml_makes_the_node_unhealthy_until_it_is_mended(
    nomad: NomadNode,
) -> None:
    nomad.configure(more="no_such_setting = 1")
    async with driver_on(nomad) as driver:
        health = await anext(aiter(driver.fingerprint(driver_pb2.FingerprintRequest())))
        assert health.health == UNHEALTHY
        assert "no_such_setting" in health.health_description
        with pytest.raises(NodeError, match="no_such_setting"):
            await start(driver, nomad.task())


@real_qemu
async def test_a_whole_node_is_healthy(nomad: NomadNode, driver: VMDriver) -> None:
    health = await anext(aiter(driver.fingerprint(driver_pb2.FingerprintRequest())))
    assert health.health == HEALTHY, health.health_description
    assert health.attributes["driver.vm"].bool_val


# Starts and stops that meet


def mute(nomad: NomadNode) -> None:
    """Give the node a QEMU that starts and says nothing."""
    nomad.configure(fake_qemu(nomad.root, "while :; do read line; done </dev/zero"))


async def test_a_stop_during_a_start_ends_it_and_leaves_nothing(nomad: NomadNode) -> None:
    mute(nomad)
    async with driver_on(nomad) as driver:
        starting = asyncio.ensure_future(start(driver, nomad.task()))
        await until(nomad.vms().running, bool, "QEMU", 60)
        await stop(driver, 5.0)
        assert nomad.vms().running() == set()
        assert nomad.vms().leftovers() == []
        with pytest.raises(NodeError, match="was stopped while it was being started"):
            await starting
        with pytest.raises(TaskNotFoundError):
            await inspect(driver)


async def test_a_stop_during_a_start_is_an_answer_to_whoever_waits_for_the_start(
    nomad: NomadNode,
) -> None:
    mute(nomad)
    async with driver_on(nomad) as driver, served(driver, nomad.root) as calls:
        starting = asyncio.ensure_future(
            calls.start_task(driver_pb2.StartTaskRequest(task=nomad.task()))
        )
        await until(nomad.vms().running, bool, "QEMU", 60)
        request = driver_pb2.StopTaskRequest(task_id=TASK_ID)
        request.timeout.FromSeconds(5)
        await calls.stop_task(request)
        assert nomad.vms().leftovers() == []
        async with asyncio.timeout(20):
            with pytest.raises(PluginError, match="stopped while it was being started"):
                await starting


async def test_an_agent_that_goes_away_during_a_start_takes_it_along(nomad: NomadNode) -> None:
    mute(nomad)
    async with driver_on(nomad) as driver:
        async with served(driver, nomad.root) as calls:
            starting = asyncio.ensure_future(
                calls.start_task(driver_pb2.StartTaskRequest(task=nomad.task()))
            )
            await until(nomad.vms().running, bool, "QEMU", 60)
        with pytest.raises((PluginError, asyncio.CancelledError)):
            await starting
        await until(nomad.vms().leftovers, lambda left: left == [], "undo", 60)
        assert nomad.vms().running() == set()


@contextlib.asynccontextmanager
async def served(driver: VMDriver, root: Path) -> AsyncIterator[DriverService]:
    """Serve `driver` on a socket and give its caller's side."""
    server = PluginServer(VMPlugin(driver._runtime), driver, on_shutdown=lambda: None)
    path = root / "plugin.sock"
    await server.start(path)
    async with grpc.aio.insecure_channel(unix_target(path), options=CHANNEL_OPTIONS) as channel:
        try:
            yield driver_calls(channel)
        finally:
            await server.stop()


async def test_a_second_start_of_one_id_is_refused_and_the_first_goes_on(
    nomad: NomadNode,
) -> None:
    nomad.configure(fake_qemu_with_qmp(nomad.root, greeting="late", greeting_delay_s=1.0))
    async with driver_on(nomad) as driver:
        without_users(driver)
        first = asyncio.ensure_future(start(driver, nomad.task()))
        # As root a process is known by its VM's user, which this one does not have.
        logs = (nomad.root / "d" / "vm").glob
        await until(lambda: list(logs("*/qemu.log")), bool, "QEMU", 60)
        with pytest.raises(NodeError, match="started already"):
            await start(driver, nomad.task())
        state = state_of(await first)
        assert identity.is_alive(state.record.process)
        with pytest.raises(NodeError, match="started already"):
            await start(driver, nomad.task())
        assert identity.is_alive(state.record.process)


def without_users(driver: VMDriver) -> None:
    """Let VMs run as us: a user of their own might not reach this Python."""

    async def begin() -> None:
        await real_begin()
        node = driver._runtime.supervisor()._node
        object.__setattr__(node, "rights", replace(node.rights, is_root=False))

    real_begin = driver._runtime.begin
    driver._runtime.begin = begin  # type: ignore[method-assign]


@real_qemu
async def test_a_new_task_of_the_same_allocation_replaces_the_vm_of_the_old_one(
    driver: VMDriver, nomad: NomadNode
) -> None:
    old = state_of(await start(driver, nomad.task()))
    new = state_of(await start(driver, nomad.task(task_id=f"{TASK_ID}-2")))
    assert new.vm_id == old.vm_id
    assert not identity.is_alive(old.record.process)
    assert (await wait(driver)).result.exit_code == 137
    # Nomad is late to destroy the old task; the new one is not touched.
    await destroy(driver)
    assert identity.is_alive(new.record.process)
    assert new.record.sockets.qmp
    assert Path(new.record.sockets.qmp).exists()


@real_qemu
async def test_two_drivers_cannot_both_start_a_task(driver: VMDriver, nomad: NomadNode) -> None:
    state = state_of(await start(driver, nomad.task()))
    async with driver_on(nomad) as other:
        with pytest.raises(VMBusyError) as caught:
            await start(other, nomad.task())
        assert caught.value.retry
    assert identity.is_alive(state.record.process)


# Recovery


@real_qemu
async def test_a_task_is_recovered_by_its_handle_and_again(nomad: NomadNode) -> None:
    async with driver_on(nomad, keep=True) as first:
        handle = await start(first, nomad.task())
    # An agent that was restarted does not send the options again.
    handle.config.msgpack_driver_config = b""
    async with driver_on(nomad) as second:
        await recover(second, handle)
        await recover(second, handle)
        seen = await inspect(second)
        assert seen.task.state == driver_pb2.TaskState.RUNNING
        assert identity.is_alive(state_of(handle).record.process)
        await stop(second, 1.0)
        assert (await wait(second)).err == ""
        await destroy(second)
    assert nomad.vms().leftovers() == []


@real_qemu
async def test_a_task_that_ended_while_no_driver_was_there_is_recovered_and_reports_its_end(
    nomad: NomadNode,
) -> None:
    async with driver_on(nomad, keep=True) as first:
        handle = await start(first, nomad.task())
        state = state_of(handle)
        managed = first._runtime.supervisor()._managed[state.vm_id]
    managed.vm.directory.write_exit(VMExit(exit_code=1, reason="the guest panicked"))
    pidfd.send_signal(state.record.process, signal.SIGKILL)
    await until(lambda: identity.is_alive(state.record.process), lambda alive: not alive, "end", 60)
    async with driver_on(nomad) as second:
        await recover(second, handle)
        outcome = await wait(second)
        assert (outcome.result.exit_code, outcome.err) == (1, "the guest panicked")
        await destroy(second)
    assert nomad.vms().leftovers() == []


async def health_of(driver: VMDriver) -> driver_pb2.FingerprintResponse:
    return await anext(aiter(driver.fingerprint(driver_pb2.FingerprintRequest())))


@real_qemu
@pytest.mark.parametrize("wrong", ["no_such_setting = 1", "]", "other paths"])
async def test_a_wrong_node_toml_and_a_restart_of_the_agent_lose_no_vm(
    nomad: NomadNode, wrong: str
) -> None:
    async with driver_on(nomad, keep=True) as first:
        handle = await start(first, nomad.task())
    process_id = state_of(handle).record.process
    if wrong == "other paths":
        nomad.node_toml.write_text(f'[paths]\nrun = "{nomad.root}/x"\ndata = "{nomad.root}/y"\n')
    else:
        nomad.configure(more=wrong)
    async with driver_on(nomad) as second:
        health = await health_of(second)
        assert health.health == UNHEALTHY or wrong == "other paths"
        await recover(second, handle)
        assert identity.is_alive(process_id)
        if wrong != "other paths":
            with pytest.raises(NodeError, match=r"no_such_setting|not TOML"):
                await start(second, nomad.task(task_id="other", name="other"))
        await stop(second, 1.0)
        assert (await wait(second)).result.exit_code == 137
        await destroy(second)
    assert nomad.vms().leftovers() == []


@real_qemu
async def test_a_node_toml_that_is_put_right_is_read_while_recovered_vms_go_on(
    nomad: NomadNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_node.nomad.driver.runtime._FINGERPRINT_INTERVAL_S", 0.05)
    async with driver_on(nomad, keep=True) as first:
        handle = await start(first, nomad.task())
    nomad.configure(more="no_such_setting = 1")
    async with driver_on(nomad) as second:
        healths = aiter(second.fingerprint(driver_pb2.FingerprintRequest()))
        assert (await anext(healths)).health == UNHEALTHY
        await recover(second, handle)
        nomad.configure()
        async with asyncio.timeout(60):
            while (await anext(healths)).health != HEALTHY:
                pass
        await start(second, nomad.task(task_id="other", name="other"))
        assert identity.is_alive(state_of(handle).record.process)
        assert (await inspect(second)).task.state == driver_pb2.TaskState.RUNNING


def with_state(handle: driver_pb2.TaskHandle, data: bytes) -> driver_pb2.TaskHandle:
    changed = driver_pb2.TaskHandle()
    changed.CopyFrom(handle)
    changed.driver_state = data
    return changed


@real_qemu
@pytest.mark.parametrize("kind", ["newer", "damaged"])
async def test_a_vm_whose_recovery_failed_is_killed_when_nomad_gives_it_up(
    nomad: NomadNode, kind: str
) -> None:
    async with driver_on(nomad, keep=True) as first:
        handle = await start(first, nomad.task())
    process_id = state_of(handle).record.process
    newer = handle.driver_state.replace(b'"version":1,', b'"version":99,').replace(
        b'"health":null', b'"health":["moved"]'
    )
    async with driver_on(nomad) as second:
        with pytest.raises(StateError):
            await recover(second, with_state(handle, newer if kind == "newer" else b"{"))
        assert identity.is_alive(process_id), "a failure alone ends nothing"
        await destroy(second)
        assert not identity.is_alive(process_id)
        assert nomad.vms().leftovers() == []
        await destroy(second)
        await start(second, nomad.task(task_id=f"{TASK_ID}-2"))


@real_qemu
async def test_a_vm_that_a_hung_driver_holds_is_killed_when_nomad_gives_it_up(
    nomad: NomadNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_node.vm.supervisor._RECOVER_LOCK_TIMEOUT_S", 0.1)
    async with driver_on(nomad) as first:
        handle = await start(first, nomad.task())
        async with driver_on(nomad) as second:
            with pytest.raises(VMBusyError):
                await recover(second, handle)
            await destroy(second)
        assert not identity.is_alive(state_of(handle).record.process)


@real_qemu
async def test_giving_up_an_old_task_leaves_the_vm_of_its_successor_alone(
    nomad: NomadNode,
) -> None:
    async with driver_on(nomad, keep=True) as first:
        old = await start(first, nomad.task())
        new = await start(first, nomad.task(task_id=f"{TASK_ID}-2"))
    async with driver_on(nomad) as second:
        with pytest.raises(StateError):
            await recover(second, with_state(old, b"{"))
        await destroy(second)
        assert identity.is_alive(state_of(new).record.process)
        await recover(second, new)


@pytest.mark.parametrize("data", [b"", b"{", b'{"version": 99}', b"\xff"])
async def test_a_handle_that_cannot_be_read_is_an_error(
    driver: VMDriver, nomad: NomadNode, data: bytes
) -> None:
    handle = driver_pb2.TaskHandle(version=1, config=nomad.task(), driver_state=data)
    with pytest.raises(StateError, match="cannot be read"):
        await recover(driver, handle)
