import os
import socket
from pathlib import Path

import pytest

from qemu_node.configdrive.tasktree import read_config_drive
from qemu_node.errors import JobError


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    directory = tmp_path / "task" / "local" / "config-drive"
    directory.mkdir(parents=True)
    return directory


def read(drive: Path) -> dict[str, bytes]:
    return read_config_drive(drive.parent.parent)


def test_whole_tree_is_read(drive: Path) -> None:
    (drive / "openstack" / "latest").mkdir(parents=True)
    (drive / "openstack" / "latest" / "user_data").write_bytes(b"#cloud-config\n")
    (drive / "unattend.xml").write_bytes(b"\xff\xfe<\0")
    (drive / "empty").mkdir()
    assert read(drive) == {
        "openstack/latest/user_data": b"#cloud-config\n",
        "unattend.xml": b"\xff\xfe<\0",
    }


def test_task_without_a_config_drive_has_no_files(tmp_path: Path) -> None:
    assert read_config_drive(tmp_path) == {}
    (tmp_path / "local").mkdir()
    assert read_config_drive(tmp_path) == {}


def test_symbolic_link_out_of_the_task_is_refused_by_name(drive: Path) -> None:
    (drive / "user_data").symlink_to("/etc/shadow")
    with pytest.raises(JobError, match="local/config-drive/user_data is a link"):
        read(drive)


def test_link_to_a_directory_is_refused_by_name(drive: Path) -> None:
    (drive / "etc").symlink_to("/etc")
    with pytest.raises(JobError, match="local/config-drive/etc is a link"):
        read(drive)


def test_config_drive_that_is_a_link_is_refused(drive: Path) -> None:
    drive.rmdir()
    drive.symlink_to("/etc")
    with pytest.raises(JobError, match="local/config-drive"):
        read(drive)


def test_hard_link_is_refused_by_name(drive: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (drive / "user_data").hardlink_to(tmp_path / "secret")
    with pytest.raises(JobError, match="user_data is a hard link"):
        read(drive)


def test_fifo_and_socket_are_refused_by_name(drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(drive / "pipe")
    with pytest.raises(JobError, match="pipe is a link or not a regular file"):
        read(drive)
    (drive / "pipe").unlink()
    monkeypatch.chdir(drive)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        with pytest.raises(JobError, match="sock is a link or not a regular file"):
            read(drive)


def test_too_many_files_are_refused(drive: Path) -> None:
    for n in range(257):
        (drive / f"{n}").write_bytes(b"")
    with pytest.raises(JobError, match="more than 256 files"):
        read(drive)


def test_too_many_directories_are_refused(drive: Path) -> None:
    for n in range(1025):
        (drive / f"{n}").mkdir()
    with pytest.raises(JobError, match="more than 1024"):
        read(drive)


def test_too_much_content_is_refused(drive: Path) -> None:
    for name in ("a", "b"):
        with (drive / name).open("wb") as file:
            file.truncate(17 << 20)
    with pytest.raises(JobError, match="more than 32 MiB"):
        read(drive)


def test_too_deep_a_tree_is_refused(drive: Path) -> None:
    (drive / "/".join("abcdefgh")).mkdir(parents=True)
    with pytest.raises(JobError, match="levels deep"):
        read(drive)
