from pathlib import Path

import pytest
from fakes.qcow2_images import Qcow2

from qemu_node.errors import HostError, JobError
from qemu_node.images.errors import ImageStorageError, UnsafeImageError
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.format.overlay import write_overlay

GIB = 1 << 30


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.qcow2"
    path.write_bytes(Qcow2().build())
    return path


def write(base: Path, size: int, image_format: ImageFormat = ImageFormat.QCOW2) -> Path:
    path = base.with_name("overlay.qcow2")
    with base.open("rb") as file:
        write_overlay(
            path,
            base=base,
            base_fd=file.fileno(),
            base_format=image_format,
            virtual_size_bytes=size,
        )
    return path


@pytest.mark.parametrize("size", [GIB, 2 * GIB])
def test_overlay_belongs_to_its_owner_alone(base: Path, size: int) -> None:
    assert write(base, size).stat().st_mode & 0o777 == 0o600


def test_smaller_disk_than_the_image_is_refused_and_leaves_nothing(base: Path) -> None:
    with pytest.raises(JobError, match=r"1024\.0 MiB is smaller .* 1\.0 GiB"):
        write(base, GIB - 512)
    assert list(base.parent.iterdir()) == [base]


def test_raw_base_is_not_probed(base: Path) -> None:
    write(base, 4 << 16, ImageFormat.RAW)


def test_base_that_turned_dangerous_is_refused(base: Path) -> None:
    base.write_bytes(Qcow2(incompatible=1 << 2).build())
    with pytest.raises(UnsafeImageError, match="external data file"):
        write(base, GIB)


def test_another_file_in_the_base_s_place_is_not_opened(base: Path) -> None:
    overlay = base.with_name("overlay.qcow2")
    with base.open("rb") as file:
        base.unlink()
        base.write_bytes(Qcow2(virtual_size_bytes=4 * GIB).build())
        write_overlay(
            overlay,
            base=base,
            base_fd=file.fileno(),
            base_format=ImageFormat.QCOW2,
            virtual_size_bytes=GIB,
        )
    assert overlay.exists()


def test_base_that_cannot_be_read_is_worth_a_retry(base: Path) -> None:
    with base.open("rb") as file:
        fd = file.fileno()
    with pytest.raises(ImageStorageError, match=r"base\.qcow2") as error:
        write_overlay(
            base.with_name("overlay"),
            base=base,
            base_fd=fd,
            base_format=ImageFormat.QCOW2,
            virtual_size_bytes=GIB,
        )
    assert error.value.retry


def test_overlay_that_cannot_be_written_is_the_hosts_error(base: Path) -> None:
    with base.open("rb") as file, pytest.raises(HostError):
        write_overlay(
            base.parent / "missing" / "overlay",
            base=base,
            base_fd=file.fileno(),
            base_format=ImageFormat.QCOW2,
            virtual_size_bytes=GIB,
        )
