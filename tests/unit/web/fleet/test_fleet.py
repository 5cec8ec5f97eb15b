"""The VMs of a node as the console knows them, with the run directory and QMP peers of a test."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.fake_qmp import FakeQmp
from fakes.published import VM_ID, make_record, publish

from qemu_node.config.node import Paths
from qemu_node.errors import QmpError, VMNotFoundError
from qemu_node.host.files.lock import HeldLocks
from qemu_node.host.files.tree import remove_tree
from qemu_node.inventory.state import VMStatus, VMSummary, summarize_of
from qemu_node.vm.life.guestnet import GuestNetwork
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.outcome import VMExit
from qemu_node.vm.record.record import VMRecord
from qemu_node.web.fleet import monitors
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.fleet.model import EndView, VMView

OTHER = "db-ba9876543210"
UNKNOWN = EndView(at="", reason="")
NETWORK = GuestNetwork(host_name="guest", addresses=("10.0.2.15",))


async def ask(_: VMSummary) -> GuestNetwork | None:
    return NETWORK


@pytest.fixture
def paths(short_tmp_path: Path) -> Paths:
    return Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))


@pytest.fixture
async def fleet(paths: Paths) -> AsyncIterator[Fleet]:
    async with Fleet(paths, ask=ask) as fleet:
        yield fleet


async def until(fleet: Fleet, accept: Callable[[Mapping[str, VMView]], object]) -> None:
    """Return once the fleet's state is accepted; the test's own time limit is the bound."""
    async for state in fleet.changes():
        if accept(state):
            return


def state_is(state: str, vm_id: str = VM_ID) -> Callable[[Mapping[str, VMView]], object]:
    return lambda vms: vm_id in vms and vms[vm_id].state == state


def viewers_of(fleet: Fleet) -> int:
    view = fleet.get(VM_ID)
    assert view is not None
    return view.viewers


def end(paths: Paths, record: VMRecord) -> None:
    """Let a VM's process be gone: the record names one that there never was."""
    gone = msgspec.structs.replace(record, start_time=record.start_time + 1)
    publish(paths, gone)


async def test_what_runs_at_the_start_is_there_at_once(paths: Paths) -> None:
    publish(paths, make_record(paths))
    async with Fleet(paths, ask=ask) as fleet:
        (vm,) = fleet.all()
        assert (vm.vm_id, vm.job, vm.namespace, vm.node) == (VM_ID, "shop", "default", "node")
        assert vm.uptime_s is not None
        assert fleet.get(VM_ID) is not None
        assert fleet.record(VM_ID).hostname == "shop-front-web-0"


async def test_a_vm_that_appears_is_noticed_also_if_there_was_no_directory(
    fleet: Fleet, paths: Paths
) -> None:
    assert fleet.all() == []
    publish(paths, make_record(paths))
    await until(fleet, state_is("unmanaged"))
    publish(paths, make_record(paths, OTHER))
    await until(fleet, state_is("unmanaged", OTHER))


async def test_a_start_in_progress_becomes_a_vm_once_it_is_published(
    fleet: Fleet, paths: Paths
) -> None:
    record = make_record(paths)
    directory = publish(paths, record)
    directory.vm_json.unlink()
    publish(paths, make_record(paths, OTHER))
    await until(fleet, state_is("unmanaged", OTHER))
    assert fleet.others()[VM_ID] is VMStatus.ORPHAN
    assert fleet.get(VM_ID) is None
    publish(paths, record)
    await until(fleet, state_is("unmanaged"))
    assert VM_ID not in fleet.others()


async def test_a_vm_whose_record_is_damaged_later_stays_a_vm(fleet: Fleet, paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    await until(fleet, lambda vms: vms)
    directory.vm_json.write_bytes(b"{")
    await until(fleet, state_is("unreadable"))
    assert fleet.record(VM_ID).vm_id == VM_ID
    publish(paths, make_record(paths))
    await until(fleet, state_is("unmanaged"))


async def test_a_record_that_was_never_read_is_told_and_is_no_vm(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    directory.vm_json.write_bytes(b"{")
    async with Fleet(paths, ask=ask) as fleet:
        assert fleet.others()[VM_ID] is VMStatus.UNREADABLE
        assert fleet.all() == []
        with pytest.raises(VMNotFoundError):
            fleet.record(VM_ID)


async def test_what_a_driver_writes_down_of_an_end_is_learnt_later(
    fleet: Fleet, paths: Paths
) -> None:
    record = make_record(paths)
    directory = publish(paths, record)
    await until(fleet, lambda vms: vms)
    end(paths, record)
    await until(fleet, state_is("ended"))
    directory.write_exit(VMExit(exit_code=137, reason="QEMU was killed by SIGKILL"))
    await until(fleet, lambda vms: (vms[VM_ID].end or UNKNOWN).exit_code == 137)


async def test_usage_that_a_driver_writes_is_shown(fleet: Fleet, paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    written: list[tuple[int, dict[str, int]]] = [(4096, {}), (8192, {"address": 2})]
    for pss, drops in written:
        usage = {"measured_at": 1, "cpu_user_s": 0, "cpu_system_s": 0, "pss_bytes": pss}
        temp = directory.run / ".tmp"
        temp.write_text(json.dumps(usage | {"drops": drops}))
        temp.rename(directory.usage_json)
        await until(fleet, shows(pss, drops))


def shows(pss: int, drops: dict[str, int]) -> Callable[[Mapping[str, VMView]], object]:
    return lambda vms: (
        VM_ID in vms and (vms[VM_ID].memory.pss_bytes, vms[VM_ID].drops) == (pss, drops)
    )


async def test_a_vm_that_is_gone_is_shown_as_ended_until_it_runs_again(
    fleet: Fleet, paths: Paths
) -> None:
    ended: list[VMView] = []
    fleet.on_end(ended.append)
    record = make_record(paths)
    directory = publish(paths, record)
    await until(fleet, lambda vms: vms)
    fleet.set_thumbnail(VM_ID, "7")
    directory.write_exit(VMExit(exit_code=1, reason="the guest's kernel panicked"))
    end(paths, record)
    await until(fleet, state_is("ended"))
    remove_tree(directory.run)
    (vm,) = ended
    assert vm.end is not None
    assert (vm.end.reason, vm.end.is_failure) == ("the guest's kernel panicked", True)
    assert vm.thumbnail == "7"
    publish(paths, record)
    await until(fleet, state_is("unmanaged"))
    view = fleet.get(VM_ID)
    assert view is not None
    assert view.end is None


async def test_what_had_ended_before_the_start_is_shown_as_ended(paths: Paths) -> None:
    end(paths, make_record(paths))
    async with Fleet(paths, ask=ask) as fleet:
        (vm,) = fleet.all()
        assert vm.state == "ended"
        assert vm.end is not None


async def test_the_run_directory_may_vanish_and_come_back(fleet: Fleet, paths: Paths) -> None:
    record = make_record(paths)
    publish(paths, record)
    await until(fleet, state_is("unmanaged"))
    remove_tree(paths.run_dir)
    await until(fleet, state_is("ended"))
    publish(paths, record)
    await until(fleet, state_is("unmanaged"))


async def test_qemus_events_are_states(fleet: Fleet, paths: Paths) -> None:
    record = make_record(paths)
    directory = publish(paths, record)
    told: list[str] = []
    fleet.on_event(lambda vm_id, event: told.append(f"{vm_id} {event.name}"))
    async with FakeQmp(directory.socket("console"), replies=_SIZE) as qemu:
        await until(fleet, lambda vms: vms and vms[VM_ID].memory.plugged_bytes == 3)
        qemu.status = "paused"
        qemu.emit("STOP")
        await until(fleet, state_is("unmanaged"))
        await until(fleet, lambda vms: qemu.commands.count("query-status") >= 2)
        qemu.power_off()
        await until(fleet, lambda vms: vms[VM_ID].end is not None or None)
    view = fleet.get(VM_ID)
    assert view is not None
    assert view.end is not None
    assert view.end.reason == "the guest powered off"
    assert f"{VM_ID} SHUTDOWN" in told
    assert "query-qmp-schema" not in qemu.commands


_SIZE: dict[str, object] = {
    "query-memory-size-summary": {"base-memory": 2, "plugged-memory": 1},
}


async def test_a_lost_monitor_is_connected_again(fleet: Fleet, paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    async with FakeQmp(directory.socket("console")) as qemu:
        await until(fleet, lambda vms: vms)
        async with fleet.monitor(VM_ID) as qmp:
            await qmp.execute("query-status")
        qemu.drop_client()
        while qemu.connections < 2:
            await asyncio.sleep(0.01)
        async with fleet.monitor(VM_ID) as qmp:
            results = await asyncio.gather(*(qmp.execute("query-status") for _ in range(5)))
        assert len(results) == 5


async def test_a_vm_without_a_monitor_for_the_daemon_gives_short_turns(
    fleet: Fleet, paths: Paths
) -> None:
    record = make_record(paths)
    old = msgspec.structs.replace(
        record, sockets=msgspec.structs.replace(record.sockets, console=None)
    )
    directory = publish(paths, old)
    async with FakeQmp(directory.socket("monitor")) as qemu:
        await until(fleet, lambda vms: vms)
        async with fleet.monitor(VM_ID) as qmp:
            await qmp.execute("query-status")
        with pytest.raises(QmpError, match="2 s"):
            async with fleet.monitor(VM_ID):
                await asyncio.Event().wait()
        assert qemu.connections >= 2


async def test_a_monitor_that_another_console_has_is_left_to_it_and_taken_when_it_is_free(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "_CONNECT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(monitors, "_TURN_INTERVAL_S", 0.1)
    directory = publish(paths, make_record(paths))
    chardev = {"label": "console", "filename": "unix:console.sock,server=on", "frontend-open": True}
    replies: dict[str, object] = _SIZE | {"query-chardev": [chardev]}
    async with (
        # QEMU accepts a second client and says nothing to it.
        FakeQmp(directory.socket("console"), greeting="absent") as taken,
        FakeQmp(directory.socket("monitor"), status="paused", replies=replies) as monitor,
        Fleet(paths, ask=ask) as fleet,
    ):
        await until(fleet, state_is("paused"))
        async with fleet.monitor(VM_ID) as qmp:
            await qmp.execute("query-status")
        while monitor.commands.count("query-chardev") < 3:
            await asyncio.sleep(0.01)
        assert taken.connections == 1
        taken.stop_listening()
        async with FakeQmp(directory.socket("console"), replies=_SIZE) as free:
            chardev["filename"] = "disconnected:unix:console.sock,server=on"
            await until(fleet, state_is("unmanaged"))
            assert free.connections == 1


async def test_a_monitor_that_does_not_answer_is_an_error(fleet: Fleet, paths: Paths) -> None:
    publish(paths, make_record(paths))
    await until(fleet, lambda vms: vms)
    with pytest.raises(QmpError):
        async with fleet.monitor(VM_ID):
            pass
    with pytest.raises(VMNotFoundError):
        async with fleet.monitor(OTHER):
            pass


async def test_guests_tell_their_names(fleet: Fleet, paths: Paths) -> None:
    publish(paths, make_record(paths, nics=()))
    await until(fleet, lambda vms: vms and vms[VM_ID].host_name == "guest")
    view = fleet.get(VM_ID)
    assert view is not None
    assert view.addresses == ("10.0.2.15",)
    assert view.agent_age_s is not None


async def test_viewers_are_counted(fleet: Fleet, paths: Paths) -> None:
    publish(paths, make_record(paths))
    await until(fleet, lambda vms: vms)
    with fleet.viewing(VM_ID), fleet.viewing(VM_ID):
        await until(fleet, lambda vms: vms[VM_ID].viewers == 2)
    await until(fleet, lambda vms: vms[VM_ID].viewers == 0)


async def test_who_looked_at_an_earlier_run_is_not_taken_for_one_of_this(
    fleet: Fleet, paths: Paths
) -> None:
    record = make_record(paths)
    publish(paths, record)
    await until(fleet, lambda vms: vms)
    with fleet.viewing(VM_ID):
        end(paths, record)
        await until(fleet, state_is("ended"))
        publish(paths, record)
        await until(fleet, state_is("unmanaged"))
        later = fleet.viewing(VM_ID)
        later.__enter__()
    assert viewers_of(fleet) == 1
    later.__exit__(None, None, None)
    assert viewers_of(fleet) == 0


async def test_a_vm_that_could_not_be_looked_at_is_found_later(
    fleet: Fleet, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_node.web.fleet.follow._SLOW_POLL_S", 0.1)
    asked: list[str] = []
    error: Exception = OSError(errno.EMFILE, "Too many open files")

    def fail(directory: VMDirectory, locks: HeldLocks) -> VMSummary:
        asked.append(directory.vm_id)
        if asked.count(directory.vm_id) < 3:
            raise error
        return summarize_of(directory, locks)

    monkeypatch.setattr("qemu_node.web.fleet.fleet.summarize_of", fail)
    publish(paths, make_record(paths))
    await until(fleet, state_is("unmanaged"))
    error = KeyError("a bug")
    directory = publish(paths, make_record(paths, OTHER))
    await until(fleet, state_is("unmanaged", OTHER))
    assert directory.vm_json.exists()


async def test_a_slow_subscriber_gets_the_newest_state_and_no_backlog(
    fleet: Fleet, paths: Paths
) -> None:
    publish(paths, make_record(paths))
    await until(fleet, lambda vms: vms)
    deltas = fleet.subscribe()
    first = await anext(deltas)
    assert first.changed[VM_ID]["job"] == "shop"
    for number in range(1000):
        fleet.set_thumbnail(VM_ID, str(number))
        if number % 100 == 0:
            await asyncio.sleep(0)
    second = await anext(deltas)
    assert second.changed[VM_ID]["thumbnail"] == "999"


async def test_a_bug_of_a_part_costs_nothing_but_a_log_line(
    fleet: Fleet, paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Any) -> None:
        raise KeyError("bug")

    fleet.on_end(fail)
    record = make_record(paths)
    publish(paths, record)
    await until(fleet, lambda vms: vms)
    end(paths, record)
    await until(fleet, state_is("ended"))
    assert "a part of the console failed" in caplog.text
