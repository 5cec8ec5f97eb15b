import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from qemu_node.errors import HostError
from qemu_node.images.errors import ImageGoneError
from qemu_node.images.store.blob import find_users, link_base


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    blob = tmp_path / "blob"
    blob.write_bytes(b"image")
    blob.chmod(0o444)
    os.utime(blob, (1, 1))
    return blob


@pytest.fixture
def fd(blob: Path) -> int:
    return os.open(blob, os.O_RDONLY)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "vm" / "web-0123456789ab" / "base.img"
    base.parent.mkdir(parents=True)
    return base


def test_base_is_the_image_and_outlives_its_name_in_the_cache(
    blob: Path, fd: int, base: Path
) -> None:
    link_base(blob, fd, base)
    assert os.path.samestat(os.fstat(fd), base.stat())
    assert base.stat().st_mode & 0o777 == 0o444
    blob.unlink()
    assert base.read_bytes() == b"image"


def test_linking_is_a_use(blob: Path, fd: int, base: Path) -> None:
    link_base(blob, fd, base)
    assert blob.stat().st_mtime > 1


def test_image_that_was_removed_meanwhile_is_gone(blob: Path, fd: int, base: Path) -> None:
    blob.unlink()
    with pytest.raises(ImageGoneError) as error:
        link_base(blob, fd, base)
    assert error.value.retry
    assert not base.exists()


def test_image_that_was_replaced_meanwhile_is_gone(blob: Path, fd: int, base: Path) -> None:
    blob.unlink()
    blob.write_bytes(b"other")
    with pytest.raises(ImageGoneError):
        link_base(blob, fd, base)
    assert not base.exists()


@pytest.mark.parametrize(
    ("code", "hint"),
    [(errno.EXDEV, "one file system"), (errno.EPERM, "hard links"), (errno.ENOSPC, "free space")],
)
def test_file_system_that_refuses_is_named_with_a_hint(
    blob: Path, fd: int, base: Path, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
) -> None:
    def refuse(*_args: object, **_options: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(HostError, match=str(base)) as error:
        link_base(blob, fd, base)
    assert error.value.hint is not None
    assert hint in error.value.hint


def test_users_are_the_vms_with_a_link(blob: Path, fd: int, base: Path) -> None:
    link_base(blob, fd, base)
    other = base.parent.parent / "db-0123456789ab" / "base.img"
    other.parent.mkdir()
    link_base(blob, fd, other)
    (base.parent.parent / "none-0123456789ab").mkdir()
    info = blob.stat()
    users = find_users(base.parent.parent)
    assert users == {(info.st_dev, info.st_ino): ("db-0123456789ab", "web-0123456789ab")}


def test_node_without_vms_has_no_users(tmp_path: Path) -> None:
    assert find_users(tmp_path / "absent") == {}
