import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from fakes.qcow2_images import Qcow2

from qemu_node.images.errors import UnsafeImageError
from qemu_node.images.format.imagefile import ImageFormat, ImageInfo, digest, inspect
from qemu_node.images.source.checksum import Algorithm


def inspected(
    path: Path, *, pinned: ImageFormat | None = None, max_bytes: int | None = None
) -> ImageInfo:
    fd = os.open(path, os.O_RDONLY)
    try:
        return inspect(fd, pinned=pinned, max_virtual_size_bytes=max_bytes)
    finally:
        os.close(fd)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "image"


def test_qcow2_is_recognised_by_its_header(image: Path) -> None:
    image.write_bytes(Qcow2().build())
    assert inspected(image) == ImageInfo(format=ImageFormat.QCOW2, virtual_size_bytes=1 << 30)


def test_anything_in_whole_sectors_is_raw(image: Path) -> None:
    image.write_bytes(b"\xeb\x63\x90" + bytes(4093))
    assert inspected(image) == ImageInfo(format=ImageFormat.RAW, virtual_size_bytes=4096)


def test_raw_image_stays_raw_when_its_guest_writes_a_qcow2_header(image: Path) -> None:
    content = Qcow2(backing_offset=200, backing_bytes=11).build()
    image.write_bytes(content)
    info = inspected(image, pinned=ImageFormat.RAW)
    assert info == ImageInfo(format=ImageFormat.RAW, virtual_size_bytes=len(content))


def test_qcow2_image_that_lost_its_header_is_refused(image: Path) -> None:
    image.write_bytes(bytes(4096))
    with pytest.raises(UnsafeImageError, match="is not one any more"):
        inspected(image, pinned=ImageFormat.QCOW2)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"KDMV", "VMDK"),
        (b"# Disk DescriptorFile\nversion=1", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (
            b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
            "VDI",
        ),
        (b"QED\0", "QED"),
        (b"WithoutFreeSpace", "Parallels"),
        (b"LUKS\xba\xbe\0\1", "LUKS"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"PK\x03\x04", "zip"),
        (bytes(257) + b"ustar", "tar"),
        (b"\n<!DOCTYPE html>", "web page"),
        (b"<HTML>", "web page"),
        (b"VMA\0\0\0\0\1", "Proxmox"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "7z"),
        (b"<Error><Code>NoSuchKey</Code>", "XML"),
    ],
)
def test_other_formats_are_refused_with_a_hint(image: Path, head: bytes, what: str) -> None:
    image.write_bytes(head.ljust(8192, b"\0"))
    with pytest.raises(UnsafeImageError, match=what) as error:
        inspected(image)
    assert error.value.hint


@pytest.mark.parametrize(("trailer", "what"), [(b"conectix", "VHD"), (b"koly", "DMG")])
def test_formats_known_by_their_trailer_are_refused(image: Path, trailer: bytes, what: str) -> None:
    image.write_bytes(bytes(8192) + trailer.ljust(512, b"\0"))
    with pytest.raises(UnsafeImageError, match=what):
        inspected(image)


@pytest.mark.parametrize(
    ("size", "reason"), [(0, "empty"), (1000, "truncated or not a disk image")]
)
def test_file_that_is_no_disk_is_refused(image: Path, size: int, reason: str) -> None:
    image.write_bytes(bytes(size))
    with pytest.raises(UnsafeImageError, match=reason):
        inspected(image)


@pytest.mark.parametrize("content", [Qcow2().build(), bytes(1 << 20)], ids=["qcow2", "raw"])
def test_disk_over_the_limit_is_refused(image: Path, content: bytes) -> None:
    image.write_bytes(content)
    with pytest.raises(UnsafeImageError) as error:
        inspected(image, max_bytes=1 << 19)
    assert "max_size" in error.value.explain()


def test_truncated_copy_is_refused(image: Path) -> None:
    image.write_bytes(Qcow2(l1=(1 << 63 | 9 << 16,)).build())
    with pytest.raises(UnsafeImageError, match="truncated"):
        inspected(image)


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeImageError, match="not a regular file"):
        inspected(tmp_path)


async def test_digest_does_not_depend_on_the_position() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"abc" * 1000)
        file.flush()
        file.seek(10)
        checksum = await digest(file.fileno(), Algorithm.SHA512)
        assert file.tell() == 10
    assert checksum.digest == hashlib.sha512(b"abc" * 1000).hexdigest()
