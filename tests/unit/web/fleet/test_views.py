"""What is shown of a VM."""

from pathlib import Path

import pytest
from fakes.published import make_record

from qemu_node.config.node import Paths
from qemu_node.inventory.state import VMStatus, VMSummary
from qemu_node.qmp.events import RunState
from qemu_node.vm.life.guestnet import GuestNetwork
from qemu_node.web.fleet.ends import GuestState
from qemu_node.web.fleet.views import settled_cpu, state_of, view_of


@pytest.mark.parametrize(
    ("status", "run_state", "word"),
    [
        (VMStatus.RUNNING, None, "running"),
        (VMStatus.RUNNING, RunState.RUNNING, "running"),
        (VMStatus.RUNNING, RunState.PAUSED, "paused"),
        (VMStatus.RUNNING, RunState.IO_ERROR, "disk-full"),
        (VMStatus.RUNNING, RunState.SHUTDOWN, "ended"),
        (VMStatus.RUNNING, RunState.GUEST_PANICKED, "ended"),
        (VMStatus.RUNNING, RunState.PRELAUNCH, "starting"),
        (VMStatus.RUNNING, RunState.SAVE_VM, "save-vm"),
        (VMStatus.RUNNING, RunState.UNKNOWN, "running"),
        (VMStatus.DISK_FULL, RunState.IO_ERROR, "disk-full"),
        (VMStatus.UNMANAGED, RunState.RUNNING, "unmanaged"),
        (VMStatus.UNMANAGED, RunState.SHUTDOWN, "ended"),
        (VMStatus.ENDED, RunState.RUNNING, "ended"),
    ],
)
def test_a_state_is_one_word(status: VMStatus, run_state: RunState | None, word: str) -> None:
    assert state_of(status, run_state) == word


def test_an_image_is_shown_without_its_login_and_addresses_begin_with_ports(
    tmp_path: Path,
) -> None:
    paths = Paths(run=str(tmp_path), data=str(tmp_path))
    record = make_record(
        paths, image="https://me:secret@example.org/\x1b[2J" + "x" * 500 + "?secret"
    )
    summary = VMSummary(vm_id=record.vm_id, status=VMStatus.RUNNING, record=record)
    network = GuestNetwork(host_name="guest", addresses=("10.0.2.15",))
    view = view_of(record, summary, GuestState(), network=network)
    assert view.image.startswith("https://example.org/?[2J")
    assert len(view.image) == 200
    assert view.addresses == ("127.0.0.1:20080 → 80", "10.0.2.15")
    assert view.memory.plugged_bytes == record.memory_bytes


@pytest.mark.parametrize(
    ("shown", "now", "next_"),
    [(None, None, None), (None, 1.23, 1.2), (1.2, 1.4, 1.2), (1.2, 1.6, 1.6), (90, 95, 90)],
)
def test_a_small_change_of_cpu_use_is_none(
    shown: float | None, now: float | None, next_: float | None
) -> None:
    assert settled_cpu(shown, now) == next_
