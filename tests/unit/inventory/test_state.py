import os
import time
from pathlib import Path

import msgspec
import pytest
from fakes.published import VM_ID, make_record, publish

from qemu_node.config.node import Paths
from qemu_node.inventory.state import (
    VMStatus,
    list_summaries,
    status_of,
    summarize,
)
from qemu_node.vm.life.usage import DiskState, Usage
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))


@pytest.mark.parametrize(
    ("is_published", "is_running", "is_managed", "status"),
    [
        (True, True, True, VMStatus.RUNNING),
        (True, True, None, VMStatus.RUNNING),
        (True, True, False, VMStatus.UNMANAGED),
        (True, False, True, VMStatus.ENDED),
        (True, False, False, VMStatus.ENDED),
        (False, False, True, VMStatus.STARTING),
        (False, True, True, VMStatus.STARTING),
        (False, True, False, VMStatus.ORPHAN),
        (False, False, False, VMStatus.ORPHAN),
    ],
)
def test_what_a_vm_is_follows_from_record_process_and_lock(
    *, is_published: bool, is_running: bool, is_managed: bool | None, status: VMStatus
) -> None:
    seen = status_of(is_published=is_published, is_running=is_running, is_managed=is_managed)
    assert seen is status


def test_a_vm_that_waits_for_disk_space_is_told_from_one_that_runs(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    waiting = DiskState(is_full=True, pauses=2, paused_at=5.0)
    usage = Usage(measured_at=time.time(), cpu_user_s=0, cpu_system_s=0, pss_bytes=1, disk=waiting)
    directory.usage_json.write_bytes(msgspec.json.encode(usage))
    # Nobody lets it go on while no driver holds it.
    assert summarize(paths, VM_ID).status is VMStatus.UNMANAGED
    lock = DirectoryLock.try_acquire(directory.data)
    assert lock is not None
    try:
        summary = summarize(paths, VM_ID)
    finally:
        lock.release()
    assert summary.status is VMStatus.DISK_FULL
    assert summary.disk == waiting


def test_a_running_vm_is_managed_while_its_lock_is_held(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    assert summarize(paths, VM_ID).status is VMStatus.UNMANAGED
    lock = DirectoryLock.try_acquire(directory.data)
    assert lock is not None
    try:
        summary = summarize(paths, VM_ID)
    finally:
        lock.release()
    assert summary.status is VMStatus.RUNNING
    assert summary.pid == os.getpid()
    assert summary.uptime_s is not None


@pytest.mark.parametrize("damaged", ["vm_json", "state_file"])
def test_a_vm_of_which_no_driver_can_read_is_told_from_one_that_is_removed(
    paths: Paths, damaged: str
) -> None:
    directory = publish(paths, make_record(paths))
    getattr(directory, damaged).write_text('{"version": 99}')
    assert summarize(paths, VM_ID).status is VMStatus.UNREADABLE


def test_a_vm_in_a_directory_of_another_user_is_listed(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(paths, make_record(paths))

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("qemu_node.vm.record.record.read_published", refuse)
    monkeypatch.setattr(Path, "exists", refuse)
    assert [vm.status for vm in list_summaries(paths)] == [VMStatus.UNREADABLE]


def test_a_vm_whose_process_is_gone_has_ended(paths: Paths) -> None:
    publish(paths, make_record(paths, start_time=1))
    summary = summarize(paths, VM_ID)
    assert summary.status is VMStatus.ENDED
    assert (summary.pid, summary.uptime_s, summary.cpu_pct) == (None, None, None)


def test_published_vms_come_first_by_name_and_leftovers_after_them(paths: Paths) -> None:
    publish(paths, make_record(paths, "b-000000000001", task="b"))
    publish(paths, make_record(paths, "a-000000000002", task="z"))
    VMDirectory.of(paths, "a-000000000000").create_data()
    listed = [(vm.vm_id, vm.record is not None) for vm in list_summaries(paths)]
    assert listed == [
        ("b-000000000001", True),
        ("a-000000000002", True),
        ("a-000000000000", False),
    ]


def test_a_node_that_never_ran_a_vm_has_none(paths: Paths) -> None:
    assert list_summaries(paths) == []


def test_cpu_use_is_that_since_the_drivers_last_measurement(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    times = os.times()
    usage = Usage(
        measured_at=time.time() - 1000.0,
        cpu_user_s=times.user - 100.0,
        cpu_system_s=times.system,
        pss_bytes=300,
    )
    directory.usage_json.write_bytes(msgspec.json.encode(usage))
    summary = summarize(paths, VM_ID)
    assert summary.cpu_pct == pytest.approx(10.0, abs=5.0)
    assert summary.pss_bytes == 300


def test_a_damaged_measurement_costs_only_itself(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    directory.usage_json.write_bytes(b"{")
    summary = summarize(paths, VM_ID)
    assert summary.pss_bytes is None
    assert summary.pid is not None
