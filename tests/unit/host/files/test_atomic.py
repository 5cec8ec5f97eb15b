import errno
import os
import stat
from pathlib import Path

import pytest

from qemu_node.errors import HostError
from qemu_node.host.files import atomic


def test_write_atomic_replaces_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "vm.json"
    path.write_bytes(b"old")
    atomic.write_atomic(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_sets_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        atomic.write_atomic(tmp_path / "f", b"", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_write_atomic_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    atomic.write_atomic(link, b"new")
    assert target.read_bytes() == b"precious"
    assert not link.is_symlink()


def test_write_atomic_on_a_full_disk_keeps_the_old_content_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(HostError, match=r"state\.json: No space left") as caught:
        atomic.write_atomic(path, b"new")
    assert caught.value.hint is not None
    assert "free space" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_writes_on_when_the_kernel_takes_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    atomic.write_atomic(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_write_atomic_into_a_missing_directory_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no/f"):
        atomic.write_atomic(tmp_path / "no" / "f", b"")


@pytest.mark.parametrize(("is_durable", "synced"), [(False, []), (True, ["file", "directory"])])
def test_only_what_must_outlive_the_power_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_durable: bool, synced: list[str]
) -> None:
    seen: list[str] = []

    def fsync(fd: int) -> None:
        seen.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write_atomic(tmp_path / "f", b"x", is_durable=is_durable)
    assert seen == synced
