import asyncio
import signal
from pathlib import Path

import pytest
from fakes.fake_qga import FakeQga
from fakes.fake_qmp import FakeQmp
from fakes.published import make_record, publish

from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.host.process.identity import ProcessId
from qemu_node.inventory import stop as vmstop
from qemu_node.inventory.stop import Stopper
from qemu_node.vm.life import stopladder as ladder
from qemu_node.vm.life.stopladder import StopAction, StopStep
from qemu_node.vm.record.record import VMRecord

TIMEOUT_S = 60.0


class FakeProcess:
    """Stands for QEMU's process: gone when told, sent signals noted."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.signals: list[signal.Signals] = []
        self.dies_of: set[signal.Signals] = set()
        self.is_ours = True

    async def wait_gone(self, _process: ProcessId) -> None:
        await self.gone.wait()

    def send_signal(self, _process: ProcessId, signum: signal.Signals) -> bool:
        if not self.is_ours:
            raise PermissionError
        self.signals.append(signum)
        if signum in self.dies_of:
            self.gone.set()
        return True


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    fake = FakeProcess()
    monkeypatch.setattr(vmstop, "wait_gone", fake.wait_gone)
    monkeypatch.setattr(vmstop, "send_signal", fake.send_signal)
    monkeypatch.setattr(vmstop, "_POLL_S", 0.02)
    return fake


@pytest.fixture
def record(short_tmp_path: Path) -> VMRecord:
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    record = make_record(paths)
    publish(paths, record)
    return record


def steps(**at_s: float) -> tuple[StopStep, ...]:
    return tuple(StopStep(action=StopAction[name], at_s=when) for name, when in at_s.items())


async def until_received(peer: FakeQmp, command: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while command not in peer.commands:
            await asyncio.sleep(0.01)


async def test_a_guest_whose_agent_obeys_is_let_go_by_its_driver(
    record: VMRecord, process: FakeProcess
) -> None:
    told: list[str] = []
    monitor = FakeQmp(Path(record.sockets.monitor))
    async with FakeQga(Path(record.sockets.qga)) as guest, monitor:
        stopping = asyncio.ensure_future(
            Stopper(record, told.append).run(steps(GUEST_AGENT=0, ACPI=30, QUIT=50, KILL=60))
        )
        async with asyncio.timeout(TIMEOUT_S):
            while guest.shutdown_mode is None:
                await asyncio.sleep(0.01)
            process.gone.set()
            stopped = await stopping
    assert stopped.action is StopAction.GUEST_AGENT
    assert not stopped.waits_for_driver
    assert told == ["asking the guest agent to shut down"]


async def test_without_an_agent_the_power_button_is_pressed_at_once(
    record: VMRecord, process: FakeProcess
) -> None:
    told: list[str] = []
    async with FakeQmp(Path(record.sockets.monitor)) as monitor:
        stopping = asyncio.ensure_future(
            Stopper(record, told.append).run(steps(GUEST_AGENT=0, ACPI=30, QUIT=50, KILL=60))
        )
        await until_received(monitor, "system_powerdown")
        process.gone.set()
        async with asyncio.timeout(TIMEOUT_S):
            await stopping
    assert any("guest agent" in line for line in told)
    assert told[-1] == "pressing the power button"


async def test_a_guest_that_is_off_is_kept_for_a_driver_that_is_away(
    record: VMRecord, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmstop, "_DRIVER_GRACE_S", 0.2)
    async with FakeQmp(Path(record.sockets.monitor)) as monitor:
        async with asyncio.timeout(TIMEOUT_S):
            stopped = await Stopper(record, lambda _line: None).run(steps(ACPI=0, QUIT=40, KILL=50))
    assert stopped.waits_for_driver
    assert "quit" not in monitor.commands
    assert process.signals == []


async def test_a_guest_that_ignores_its_button_is_quit_when_its_time_is_up(
    record: VMRecord, process: FakeProcess
) -> None:
    async with FakeQmp(Path(record.sockets.monitor), obeys_powerdown=False) as monitor:
        stopping = asyncio.ensure_future(
            Stopper(record, lambda _line: None).run(steps(ACPI=0, QUIT=0.3, KILL=50))
        )
        await until_received(monitor, "quit")
        process.gone.set()
        async with asyncio.timeout(TIMEOUT_S):
            stopped = await stopping
    assert stopped.action is StopAction.QUIT
    assert monitor.commands[0] == "system_powerdown"


async def test_a_qemu_without_a_monitor_is_ended_by_signals(
    record: VMRecord, process: FakeProcess
) -> None:
    process.dies_of = {signal.SIGKILL}
    async with asyncio.timeout(TIMEOUT_S):
        stopped = await Stopper(record, lambda _line: None).run(steps(QUIT=0, KILL=0.1))
    assert stopped.action is StopAction.KILL
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]


async def test_another_users_qemu_is_an_error_with_what_to_do(
    record: VMRecord, process: FakeProcess
) -> None:
    process.is_ours = False
    with pytest.raises(HostError, match="another user's") as refused:
        await Stopper(record, lambda _line: None).run(steps(QUIT=0, KILL=0.1))
    assert refused.value.hint == "run this as root"


async def test_a_process_that_survives_everything_is_reported(
    record: VMRecord, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "KILL_TIMEOUT_S", 0.1)
    with pytest.raises(HostError, match="did not end"):
        await Stopper(record, lambda _line: None).run(steps(KILL=0))
    assert process.signals == [signal.SIGKILL]
