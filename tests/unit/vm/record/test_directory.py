import os
import tempfile
from pathlib import Path

import msgspec
import pytest
from fakes.published import VM_ID, make_record, publish
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.host.files import tree
from qemu_node.host.process import users
from qemu_node.vm.names import VMIdError, vm_id
from qemu_node.vm.record import leases
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory, known_vm_ids, visible_vm_ids
from qemu_node.vm.record.leases import lease_uid, uid_leases
from qemu_node.vm.record.outcome import VMExit
from qemu_node.vm.record.record import StateError, VMState

VM_A = vm_id("alloc-a", "web")
VM_B = vm_id("alloc-b", "web")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=str(tmp_path / "run"), data=str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "CLAIMS_DIR", tmp_path / "claims")


def leased(paths: Paths, holder: str) -> int:
    """Return the user of a VM of which nothing runs."""
    user = lease_uid(paths.vm_data_dir, holder, 4_000_000, 10)
    user.close()
    return user.uid


@pytest.mark.parametrize(
    "text", ["", ".", "..", ".uid", "/etc", "web/../../etc", "web-1", "\x1b[2J"]
)
def test_what_is_no_id_of_a_vm_never_becomes_a_path(paths: Paths, text: str) -> None:
    with pytest.raises(VMIdError, match="not the id of a VM") as caught:
        VMDirectory.of(paths, text)
    assert str(caught.value).isprintable()


def test_nothing_is_removed_and_the_user_not_given_back_while_a_process_has_it(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = VMDirectory.of(paths, VM_A)
    directory.create_data()
    directory.create_run(None)
    # The descriptor stands for that of a QEMU which does not die.
    user = lease_uid(paths.vm_data_dir, VM_A, 4_000_000, 10)
    monkeypatch.setattr(leases, "_BUSY_WAIT_S", 0.0)
    with pytest.raises(HostError, match=VM_A):
        directory.remove(user.uid)
    assert directory.data.exists()
    assert directory.run.exists()
    assert uid_leases(paths.vm_data_dir) == {user.uid: VM_A}
    user.close()
    directory.remove(user.uid)
    assert uid_leases(paths.vm_data_dir) == {}


def test_the_user_is_not_given_back_before_the_files_are_gone(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = VMDirectory.of(paths, VM_A)
    directory.create_data()
    uid = leased(paths, VM_A)

    def fail(path: Path) -> None:
        raise HostError(f"cannot remove {path}")

    monkeypatch.setattr(tree, "remove_tree", fail)
    with pytest.raises(HostError):
        directory.remove(uid)
    assert uid_leases(paths.vm_data_dir) == {uid: VM_A}


def test_a_link_in_the_place_of_a_vm_is_not_followed(paths: Paths, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "file").touch()
    paths.vm_data_dir.mkdir(parents=True)
    directory = VMDirectory.of(paths, VM_A)
    directory.data.symlink_to(elsewhere)
    assert DirectoryLock.try_acquire(directory.data) is None
    with pytest.raises(HostError):
        directory.create_data()
    assert elsewhere.stat().st_mode & 0o777 == 0o700
    directory.remove()
    assert (elsewhere / "file").exists()


def test_only_one_holder_of_the_lock_at_a_time(paths: Paths) -> None:
    directory = VMDirectory.of(paths, VM_A)
    directory.create_data()
    first = DirectoryLock.try_acquire(directory.data)
    assert first is not None
    assert DirectoryLock.try_acquire(directory.data) is None
    first.release()
    second = DirectoryLock.try_acquire(directory.data)
    assert second is not None
    second.release()


def test_a_directory_that_is_removed_before_it_is_locked_takes_no_lock_with_it(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = VMDirectory.of(paths, VM_A)
    directory.create_data()
    real_open = os.open

    def open_then_remove(path: Path, flags: int, *args: int, **kwargs: int) -> int:
        fd = real_open(path, flags, *args, **kwargs)
        directory.data.rmdir()
        return fd

    monkeypatch.setattr("qemu_node.host.files.lock.os.open", open_then_remove)
    assert DirectoryLock.try_acquire(directory.data) is None


def test_there_is_no_lock_without_a_directory(paths: Paths) -> None:
    assert DirectoryLock.try_acquire(VMDirectory.of(paths, VM_A).data) is None


def test_qemu_may_add_to_the_run_directory_but_not_replace_what_is_ours(paths: Paths) -> None:
    directory = VMDirectory.of(paths, VM_A)
    directory.create_run(os.getgid())
    assert directory.run.stat().st_mode & 0o7777 == 0o1771
    directory.create_data()
    assert directory.data.stat().st_mode & 0o7777 == 0o711


def test_removal_takes_both_directories_and_the_lease_and_may_be_repeated(paths: Paths) -> None:
    directory = VMDirectory.of(paths, VM_A)
    directory.create_data()
    directory.create_run(None)
    lease_uid(paths.vm_data_dir, VM_A, 5000, 10).close()
    (directory.run / "sub").mkdir()
    directory.remove()
    directory.remove()
    assert known_vm_ids(paths) == set()
    assert uid_leases(paths.vm_data_dir) == {}


def test_a_vm_that_knows_its_user_is_removed_without_reading_the_leases_of_others(
    paths: Paths,
) -> None:
    directory = VMDirectory.of(paths, VM_A)
    directory.create_data()
    uid = leased(paths, VM_A)
    # Reading it would fail.
    (paths.vm_data_dir / ".uid" / "5000").mkdir()
    directory.remove(uid)
    assert not (paths.vm_data_dir / ".uid" / str(uid)).exists()


def test_a_user_that_another_vm_has_by_now_is_not_given_back(paths: Paths) -> None:
    VMDirectory.of(paths, VM_A).create_data()
    uid = leased(paths, VM_B)
    VMDirectory.of(paths, VM_A).remove(uid)
    assert uid_leases(paths.vm_data_dir) == {uid: VM_B}


def test_what_is_no_vm_of_this_node_is_not_listed(paths: Paths) -> None:
    VMDirectory.of(paths, VM_A).create_data()
    (paths.vm_data_dir / "lost+found").mkdir()
    (paths.vm_run_dir / VM_B).mkdir(parents=True)
    assert known_vm_ids(paths) == {VM_A}
    assert visible_vm_ids(paths) == {VM_A, VM_B}


def test_a_damaged_exit_reads_as_none(paths: Paths) -> None:
    directory = VMDirectory.of(paths, VM_A)
    directory.create_data()
    assert directory.read_exit() is None
    directory.exit_file.write_text('{"exit_code"')
    assert directory.read_exit() is None


_ALMOST = [
    b'{"exit_code":1,"reason":"\xff"}',
    b'{"x":' + b"[" * 100_000,
    b'{"exit_code":1e400}',
]


@given(
    st.binary(max_size=64) | st.sampled_from(_ALMOST) | st.binary().map(lambda b: _ALMOST[0] + b)
)
def test_whatever_bytes_are_in_its_files_reading_them_is_no_fault_of_ours(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        directory = VMDirectory.of(Paths(run=f"{tmp}/run", data=f"{tmp}/data"), VM_A)
        directory.create_data()
        directory.exit_file.write_bytes(content)
        assert directory.read_exit() is None
        with pytest.raises(StateError):
            VMState.decode(content, "test")


def test_a_state_is_absent_readable_or_unreadable(paths: Paths) -> None:
    directory = VMDirectory.of(paths, VM_ID)
    directory.create_data()
    assert directory.read_state() is None
    publish(paths, make_record(paths))
    assert directory.read_state() is not None
    directory.state_file.write_text('{"version": 1, "vm_id"')
    with pytest.raises(StateError):
        directory.read_state()
    directory.state_file.unlink()
    directory.state_file.mkdir()
    with pytest.raises(StateError, match="Is a directory"):
        directory.read_state()


def test_vm_json_tells_of_a_vm_whose_state_is_damaged(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    directory.state_file.write_bytes(b"")
    with pytest.raises(StateError) as caught:
        directory.read_state()
    assert caught.value.header is not None
    assert caught.value.header.is_running
    directory.vm_json.write_bytes(b"")
    with pytest.raises(StateError) as caught:
        directory.read_state()
    assert caught.value.header is None


def test_a_vm_json_that_the_driver_did_not_write_is_not_believed(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    directory.state_file.write_bytes(b"")
    directory.vm_json.rename(directory.run / "moved")
    os.mkfifo(directory.vm_json)
    with pytest.raises(StateError) as caught:
        directory.read_state()
    assert caught.value.header is None
    directory.vm_json.unlink()
    directory.vm_json.symlink_to("moved")
    with pytest.raises(StateError) as caught:
        directory.read_state()
    assert caught.value.header is None


def test_the_state_of_another_vm_is_not_taken_for_this_ones(paths: Paths) -> None:
    other = publish(paths, make_record(paths))
    directory = VMDirectory.of(paths, VM_A)
    directory.create_data()
    directory.state_file.write_bytes(other.state_file.read_bytes())
    with pytest.raises(StateError, match="another VM"):
        directory.read_state()


def test_a_state_names_the_directories_of_its_vm_whatever_node_toml_says(paths: Paths) -> None:
    directory = publish(paths, make_record(paths))
    elsewhere = Paths(run="/elsewhere/run", data="/elsewhere/data")
    state = directory.read_state()
    assert state is not None
    assert VMDirectory.of_state(state, elsewhere) == VMDirectory.of(elsewhere, VM_ID)
    named = msgspec.structs.replace(state, data_dir=str(directory.data), run_dir=str(directory.run))
    assert VMDirectory.of_state(named, elsewhere) == directory


def test_the_end_of_a_vm_reads_back_as_written(paths: Paths) -> None:
    directory = VMDirectory.of(paths, VM_A)
    directory.create_data()
    outcome = VMExit(exit_code=1, reason="the guest's kernel panicked")
    directory.write_exit(outcome)
    assert directory.read_exit() == outcome
