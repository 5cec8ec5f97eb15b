import os
from pathlib import Path

import pytest
from fakes.fake_qga import FakeQga
from fakes.fake_qmp import FakeQmp
from fakes.published import make_record, publish

from qemu_node.config.node import Paths
from qemu_node.inventory.access import agent_of, connect_monitor, may_reach, reachable_address
from qemu_node.qmp import commands
from qemu_node.vm.record.record import VMRecord


@pytest.fixture
def record(short_tmp_path: Path) -> VMRecord:
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    record = make_record(paths)
    publish(paths, record)
    return record


async def test_a_vm_is_reached_by_the_sockets_of_its_record(record: VMRecord) -> None:
    async with FakeQga(Path(record.sockets.qga)), FakeQmp(Path(record.sockets.monitor)):
        assert may_reach(record)
        await agent_of(record).ping(timeout_s=60)
        async with await connect_monitor(record, timeout_s=60) as qmp:
            assert (await commands.query_status(qmp)).running


def test_a_vm_whose_sockets_are_another_users_may_not_be_reached(
    record: VMRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = Path(record.sockets.monitor)
    monitor.touch()
    monkeypatch.setattr(os, "access", lambda path, _mode: path != monitor)
    assert not may_reach(record)


def test_nobody_is_kept_from_a_vm_whose_sockets_are_gone(record: VMRecord) -> None:
    assert may_reach(record)


def test_forwarded_ports_come_before_the_guests_own_address(tmp_path: Path) -> None:
    paths = Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))
    record = make_record(paths)
    assert reachable_address(record, ["10.0.2.15"]) == "127.0.0.1:20080 → 80"
    bridged = make_record(paths, nics=())
    assert reachable_address(bridged, ["10.1.2.3", "10.4.5.6"]) == "10.1.2.3"
    assert reachable_address(bridged) == ""
