import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fakes.fake_qga import FakeQga
from fakes.fake_qmp import FakeQmp
from fakes.published import make_record, publish

from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.host.process.identity import ProcessId
from qemu_node.inventory import stopall
from qemu_node.inventory.stopall import Ended, stop_all
from qemu_node.vm.life import stopladder as ladder
from qemu_node.vm.life.stopladder import StopAction
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory
from qemu_node.vm.record.outcome import POWERED_OFF
from qemu_node.vm.record.record import VMRecord

TIMEOUT_S = 120.0


class FakeQemu:
    """The process of one VM: ends when it is told to quit, or of signals."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.signals: list[signal.Signals] = []
        self.dies_of = {signal.SIGTERM, signal.SIGKILL}
        self.is_ours = True
        self.monitor: FakeQmp | None = None


class FakeHost:
    """The processes of this node; stands for pidfds and /proc."""

    def __init__(self) -> None:
        self.processes: dict[ProcessId, FakeQemu] = {}
        self.unpublished: list[tuple[str, ProcessId]] = []

    def is_alive(self, process: ProcessId) -> bool:
        return process in self.processes and not self.processes[process].gone.is_set()

    def find_vm_processes(self, _data: Path) -> list[tuple[str, ProcessId]]:
        return [(vm_id, process) for vm_id, process in self.unpublished if self.is_alive(process)]


class FakeHold:
    host: FakeHost

    def __init__(self, process: ProcessId) -> None:
        self._qemu = self.host.processes[process]

    def send(self, signum: signal.Signals) -> bool:
        if not self._qemu.is_ours:
            raise PermissionError
        self._qemu.signals.append(signum)
        if signum in self._qemu.dies_of:
            self._qemu.gone.set()
        return True

    async def wait_gone(self) -> None:
        # As a real QEMU, it ends once it was told to quit.
        monitor = self._qemu.monitor
        while not self._qemu.gone.is_set():
            if monitor is not None and "quit" in monitor.commands:
                self._qemu.gone.set()
            await asyncio.sleep(0.01)

    def __enter__(self) -> "FakeHold":
        return self

    def __exit__(self, *_exc: object) -> None:
        pass


@pytest.fixture
def paths(short_tmp_path: Path) -> Paths:
    return Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    host = FakeHost()
    monkeypatch.setattr(FakeHold, "host", host, raising=False)
    monkeypatch.setattr(stopall, "Hold", FakeHold)
    monkeypatch.setattr(stopall, "is_alive", host.is_alive)
    monkeypatch.setattr(stopall, "find_vm_processes", host.find_vm_processes)
    monkeypatch.setattr(stopall, "_RECONNECT_S", 0.01)
    return host


@pytest.fixture
async def peers() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def add(host: FakeHost, paths: Paths, number: int = 0) -> tuple[FakeQemu, VMRecord]:
    """Publish a VM whose process runs."""
    process = ProcessId(pid=10_000 + number, start_time=number + 1)
    record = make_record(
        paths, f"web-{number:012d}", pid=process.pid, start_time=process.start_time
    )
    publish(paths, record)
    qemu = host.processes[process] = FakeQemu()
    return qemu, record


async def monitor_of(peers: AsyncExitStack, qemu: FakeQemu, monitor: FakeQmp) -> FakeQmp:
    qemu.monitor = await peers.enter_async_context(monitor)
    return qemu.monitor


async def stopped(paths: Paths, timeout_s: float = 60.0) -> list[Ended]:
    async with asyncio.timeout(TIMEOUT_S):
        return await stop_all(paths, timeout_s, lambda _line: None)


def directory_of(paths: Paths, record: VMRecord) -> VMDirectory:
    return VMDirectory.of(paths, record.vm_id)


async def test_a_node_without_vms_has_nothing_to_do(paths: Paths, host: FakeHost) -> None:
    assert host.processes == {}
    assert await stopped(paths) == []


async def test_a_guest_that_obeys_leaves_no_qemu_behind_and_its_end_is_its_nodes(
    paths: Paths, host: FakeHost, peers: AsyncExitStack
) -> None:
    qemu, record = add(host, paths)
    monitor = await monitor_of(peers, qemu, FakeQmp(Path(record.sockets.monitor)))
    guest = await peers.enter_async_context(FakeQga(Path(record.sockets.qga)))

    async def obey() -> None:
        while guest.shutdown_mode is None:
            await asyncio.sleep(0.01)
        assert directory_of(paths, record).node_stop_file.exists()
        monitor.power_off()

    ((ended,), _) = await asyncio.gather(stopped(paths), obey())
    assert (ended.action, ended.problem) == (StopAction.GUEST_AGENT, None)
    assert monitor.commands == ["query-status", "quit"]
    assert qemu.signals == []


async def test_without_an_agent_the_power_button_is_pressed_at_once(
    paths: Paths, host: FakeHost, peers: AsyncExitStack
) -> None:
    qemu, record = add(host, paths)
    monitor = await monitor_of(peers, qemu, FakeQmp(Path(record.sockets.monitor)))
    (ended,) = await stopped(paths)
    assert ended.action is StopAction.ACPI
    assert monitor.commands == ["query-status", "system_powerdown", "quit"]


async def test_a_guest_that_ignores_all_is_ended_in_time(
    paths: Paths, host: FakeHost, peers: AsyncExitStack
) -> None:
    qemu, record = add(host, paths)
    monitor = await monitor_of(
        peers, qemu, FakeQmp(Path(record.sockets.monitor), obeys_powerdown=False)
    )
    (ended,) = await stopped(paths, timeout_s=5.0)
    assert ended.action is StopAction.QUIT
    assert monitor.commands[-1] == "quit"


async def test_a_guest_that_had_ended_by_itself_keeps_its_own_end(
    paths: Paths, host: FakeHost, peers: AsyncExitStack
) -> None:
    qemu, record = add(host, paths)
    monitor = FakeQmp(Path(record.sockets.monitor), status="shutdown")
    await monitor_of(peers, qemu, monitor)
    (ended,) = await stopped(paths)
    assert ended.action is None
    assert monitor.commands == ["query-status", "quit"]
    directory = directory_of(paths, record)
    assert not directory.node_stop_file.exists()
    assert directory.read_exit() == POWERED_OFF


async def test_the_end_that_a_driver_has_seen_is_left_to_that_driver(
    paths: Paths, host: FakeHost, peers: AsyncExitStack
) -> None:
    qemu, record = add(host, paths)
    monitor = FakeQmp(Path(record.sockets.monitor), status="shutdown")
    await monitor_of(peers, qemu, monitor)
    directory = directory_of(paths, record)
    lock = DirectoryLock.try_acquire(directory.data)
    assert lock is not None
    try:
        stopping = asyncio.ensure_future(stopped(paths))
        while "query-status" not in monitor.commands:
            await asyncio.sleep(0.01)
        qemu.gone.set()
        (ended,) = await stopping
    finally:
        lock.release()
    assert ended.vm.is_managed
    assert monitor.commands == ["query-status"]
    assert directory.read_exit() is None


async def test_a_qemu_whose_monitor_somebody_else_has_is_ended_by_signals(
    paths: Paths, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopall, "_MONITOR_TIMEOUT_S", 0.05)
    qemu, _ = add(host, paths)
    qemu.dies_of = {signal.SIGKILL}
    (ended,) = await stopped(paths, timeout_s=0.4)
    assert ended.action is StopAction.KILL
    assert qemu.signals == [signal.SIGTERM, signal.SIGKILL]


async def test_vms_that_nobody_has_published_yet_are_ended_too(
    paths: Paths, host: FakeHost
) -> None:
    process = ProcessId(pid=20_000, start_time=1)
    qemu = host.processes[process] = FakeQemu()
    host.unpublished.append(("web-000000000000", process))
    (ended,) = await stopped(paths)
    assert ended.vm.monitor is None
    assert qemu.signals == [signal.SIGTERM]


async def test_a_vm_of_a_newer_driver_is_ended_as_any_other(
    paths: Paths, host: FakeHost, peers: AsyncExitStack
) -> None:
    qemu, record = add(host, paths)
    vm_json = directory_of(paths, record).vm_json
    vm_json.write_bytes(vm_json.read_bytes().replace(b'"version":2', b'"version":99'))
    monitor = await monitor_of(peers, qemu, FakeQmp(Path(record.sockets.monitor)))
    (ended,) = await stopped(paths)
    assert ended.problem is None
    assert "system_powerdown" in monitor.commands


async def test_one_that_cannot_be_ended_keeps_no_other_from_its_end(
    paths: Paths, host: FakeHost, peers: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "KILL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(stopall, "_MONITOR_TIMEOUT_S", 0.05)
    stuck, _ = add(host, paths, 0)
    stuck.dies_of = set()
    foreign, _ = add(host, paths, 1)
    foreign.is_ours = False
    qemu, record = add(host, paths, 2)
    await monitor_of(peers, qemu, FakeQmp(Path(record.sockets.monitor)))
    first, second, third = await stopped(paths, timeout_s=1.0)
    assert "did not end" in (first.problem or "")
    assert "another user's" in (second.problem or "")
    assert third.problem is None


async def test_hundreds_end_in_the_time_of_one(
    paths: Paths, host: FakeHost, peers: AsyncExitStack
) -> None:
    for number in range(200):
        qemu, record = add(host, paths, number)
        await monitor_of(peers, qemu, FakeQmp(Path(record.sockets.monitor)))
    # Far less than 200 guests would take that are asked one after the other.
    ended = await stopped(paths, timeout_s=60.0)
    assert len(ended) == 200
    assert {end.action for end in ended} == {StopAction.ACPI}


async def test_a_directory_that_cannot_be_listed_is_an_error(
    paths: Paths, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_paths: Paths) -> set[str]:
        raise HostError("cannot list the VMs")

    assert host.processes == {}
    monkeypatch.setattr(stopall, "visible_vm_ids", refuse)
    with pytest.raises(HostError):
        await stopped(paths)
