from pathlib import Path

import pytest
from fakes.fake_qga import FakeQga
from fakes.fake_qmp import FakeQmp
from fakes.published import make_record, publish

from qemu_node.config.node import Paths
from qemu_node.inventory.report import ask_networks, report_on
from qemu_node.inventory.state import summarize


@pytest.fixture
def paths(short_tmp_path: Path) -> Paths:
    return Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))


async def test_a_peer_that_does_not_answer_costs_its_own_part_of_the_report(paths: Paths) -> None:
    record = make_record(paths)
    publish(paths, record)
    summary = summarize(paths, record.vm_id)
    async with FakeQga(Path(record.sockets.qga)):
        report = await report_on(record, summary)
    assert report.run_state is None
    assert "no QMP on" in (report.qemu_problem or "")
    assert report.agent is not None
    assert report.agent.host_name == "guest"
    async with FakeQmp(Path(record.sockets.monitor)):
        report = await report_on(record, summary)
    assert (report.run_state, report.qemu_version) == ("running", "10.0.0")
    assert report.agent is None
    assert report.agent_problem


async def test_a_vm_whose_process_is_gone_is_asked_nothing(paths: Paths) -> None:
    record = make_record(paths, start_time=1)
    publish(paths, record)
    async with FakeQmp(Path(record.sockets.monitor)) as qemu:
        report = await report_on(record, summarize(paths, record.vm_id))
    assert report.qemu_problem == report.agent_problem == "its process is gone"
    assert qemu.received == []


async def test_the_silent_are_left_out_of_the_list_of_addresses(paths: Paths) -> None:
    record = make_record(paths)
    publish(paths, record)
    vms = [summarize(paths, record.vm_id)]
    assert await ask_networks(vms) == {}
    async with FakeQga(Path(record.sockets.qga)):
        assert list(await ask_networks(vms)) == [record.vm_id]
