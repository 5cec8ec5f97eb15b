from pathlib import Path

import pytest

from qemu_node.net import owner
from qemu_node.net.errors import NetworkOwnedError
from qemu_node.net.owner import NetworkOwner


@pytest.fixture(autouse=True)
def _no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_DIRECTORY", tmp_path)


def vms_run() -> bool:
    return True


def no_vm_runs() -> bool:
    return False


def test_one_driver_at_a_time_has_the_network() -> None:
    first, second = NetworkOwner("/data"), NetworkOwner("/data")
    first.acquire(no_vm_runs)
    first.acquire(vms_run)
    with pytest.raises(NetworkOwnedError, match="another driver manages"):
        second.acquire(no_vm_runs)
    first.release()
    second.acquire(vms_run)
    assert second.problem is None


def test_the_network_stays_with_the_vms_that_a_driver_left() -> None:
    first, second = NetworkOwner("/data"), NetworkOwner("/other")
    first.acquire(no_vm_runs)
    first.release()
    with pytest.raises(NetworkOwnedError, match="its data in /data, have ports"):
        second.acquire(vms_run)
    assert second.problem is not None
    first.acquire(vms_run)
    first.release()
    second.acquire(no_vm_runs)
    second.release()
    with pytest.raises(NetworkOwnedError, match="its data in /other"):
        first.acquire(vms_run)
