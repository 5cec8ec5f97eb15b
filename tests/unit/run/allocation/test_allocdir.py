from pathlib import Path

import msgspec
import pytest
from fakes.fake_task_driver import make_record

from qemu_node.host.files.lock import FileLock
from qemu_node.nomad.proto import driver_pb2
from qemu_node.run.allocation.allocdir import SessionDir, make_alloc_dir, sweep


def abandon(root: Path) -> Path:
    """Make a session whose process is gone: its lock is free, its directory there."""
    session = SessionDir.create(root)
    make_alloc_dir(session.path, "a1", ["vm"])
    session._lock.release()
    return session.path


def test_a_session_leaves_nothing_behind(tmp_path: Path) -> None:
    root = tmp_path / "data" / "run"
    session = SessionDir.create(root)
    make_alloc_dir(session.path, "a1", ["a task with spaces"])
    session.remove()
    assert list(root.iterdir()) == []


def test_left_overs_of_dead_sessions_are_swept(tmp_path: Path) -> None:
    path = abandon(tmp_path)
    assert sweep(tmp_path, vm_run_dir=tmp_path / "vm") == [path]
    assert list(tmp_path.iterdir()) == []


def test_a_live_session_is_not_swept(tmp_path: Path) -> None:
    session = SessionDir.create(tmp_path)
    assert sweep(tmp_path, vm_run_dir=tmp_path / "vm") == []
    assert session.path.is_dir()
    session.remove()


def test_a_session_whose_vms_still_stop_is_not_swept(tmp_path: Path) -> None:
    root = tmp_path / "run"
    path = abandon(root)
    task = driver_pb2.TaskConfig(
        name="vm", alloc_id="a1", alloc_dir=str(path / "alloc" / "a1"),
        env={"NOMAD_ALLOC_INDEX": "0"},
    )  # fmt: skip
    directory = tmp_path / "vm" / "x"
    directory.mkdir(parents=True)
    (directory / "vm.json").write_bytes(msgspec.json.encode(make_record(task)))
    assert sweep(root, vm_run_dir=tmp_path / "vm") == []
    (directory / "vm.json").unlink()
    assert sweep(root, vm_run_dir=tmp_path / "vm") == [path]


def test_what_is_no_session_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert sweep(tmp_path, vm_run_dir=tmp_path / "vm") == []
    assert (tmp_path / "notes").is_dir()


def test_two_sessions_have_directories_of_their_own(tmp_path: Path) -> None:
    first, second = SessionDir.create(tmp_path), SessionDir.create(tmp_path)
    assert first.path != second.path
    assert not FileLock(first.path.with_suffix(".lock")).try_acquire()
    first.remove()
    second.remove()


@pytest.mark.parametrize("name", ["ä b", "x" * 120])
def test_task_names_may_be_anything_but_a_path(tmp_path: Path, name: str) -> None:
    assert (make_alloc_dir(tmp_path, "a1", [name]) / name / "local").is_dir()
