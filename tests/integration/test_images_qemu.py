"""What we write and what we accept, judged by qemu-img."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from fakes.qcow2_images import FEATURE_NAMES, Qcow2

from qemu_node.host.process import command
from qemu_node.images.errors import UnsafeImageError
from qemu_node.images.format import imagefile
from qemu_node.images.format.imagefile import ImageFormat, ImageInfo
from qemu_node.images.format.overlay import write_overlay

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is missing")

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


async def qemu_img(*args: str, check: bool = True) -> dict[str, Any]:
    done = await command.run(["qemu-img", *args, "--output=json"], check=check)
    value = json.loads(done.stdout or b"{}")
    assert isinstance(value, dict)
    return value


async def create(path: Path, size: int, *options: str) -> None:
    await command.run(["qemu-img", "create", *options, str(path), str(size)])


def inspected(path: Path) -> ImageInfo:
    with path.open("rb") as file:
        return imagefile.inspect(file.fileno())


@pytest.mark.parametrize("base_format", list(ImageFormat))
@pytest.mark.parametrize(
    "size", [MIB, MIB + 512, 512 * MIB, 512 * MIB + 512, 50 * GIB, TIB, 8 * TIB]
)
async def test_qemu_img_agrees_with_our_overlay(
    tmp_path: Path, base_format: ImageFormat, size: int
) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay.qcow2"
    await create(base, MIB, "-f", base_format.value)
    with base.open("rb") as file:
        write_overlay(
            overlay,
            base=base,
            base_fd=file.fileno(),
            base_format=base_format,
            virtual_size_bytes=size,
        )
    info = await qemu_img("info", "-f", "qcow2", str(overlay))
    assert info["virtual-size"] == size
    assert info["backing-filename"] == str(base)
    assert info["backing-filename-format"] == base_format.value
    assert info["format-specific"]["data"]["compat"] == "1.1"
    checked = await qemu_img("check", "-f", "qcow2", str(overlay))
    assert checked["check-errors"] == 0
    assert not checked.keys() & {"leaks", "corruptions"}


async def test_overlay_keeps_what_is_written_and_shows_the_base(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base.raw", tmp_path / "overlay.qcow2"
    base.write_bytes(b"\xaa" * MIB)
    with base.open("rb") as file:
        write_overlay(
            overlay,
            base=base,
            base_fd=file.fileno(),
            base_format=ImageFormat.RAW,
            virtual_size_bytes=3 * GIB,
        )
    await command.run(
        ["qemu-io", "-f", "qcow2",
         "-c", "read -P 0xaa 0 1M",
         "-c", "read -P 0 1M 1M",
         "-c", "write -P 0x55 512k 64k",
         "-c", "write -P 0x66 2G 2M",
         "-c", "read -P 0x55 512k 64k",
         "-c", "read -P 0x66 2G 2M",
         "-c", "read -P 0xaa 576k 64k",
         str(overlay)]
    )  # fmt: skip
    checked = await qemu_img("check", "-f", "qcow2", str(overlay))
    assert checked["check-errors"] == 0
    assert not checked.keys() & {"leaks", "corruptions"}
    assert base.read_bytes() == b"\xaa" * MIB


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-o", "compat=0.10"),
        ("-o", "cluster_size=512"),
        ("-o", "cluster_size=2M"),
        ("-o", "compression_type=zstd"),
        ("-o", "extended_l2=on"),
        ("-o", "lazy_refcounts=on"),
        ("-o", "refcount_bits=1"),
        ("-o", "preallocation=metadata"),
    ],
    ids=str,
)
async def test_what_qemu_img_creates_is_accepted(tmp_path: Path, options: tuple[str, ...]) -> None:
    image = tmp_path / "image"
    await create(image, GIB // 4, "-f", "qcow2", *options)
    assert inspected(image) == ImageInfo(format=ImageFormat.QCOW2, virtual_size_bytes=GIB // 4)


async def test_what_qemu_img_converts_is_accepted_and_a_cut_copy_is_not(tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    # Data in two L2 tables' ranges, so that the second table lies behind the first one's data.
    with raw.open("wb") as file:
        file.write(b"\x11" * MIB)
        file.seek(600 * MIB)
        file.write(b"\x22" * MIB)
    await command.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)])
    assert inspected(image).virtual_size_bytes == 601 * MIB
    with image.open("r+b") as file:
        file.truncate(MIB)
    with pytest.raises(UnsafeImageError, match="truncated"):
        inspected(image)


@pytest.mark.parametrize(
    "options",
    [
        ("-o", "backing_file=/dev/null,backing_fmt=raw"),
        ("-o", "data_file={dir}/data"),
        ("-o", "data_file={dir}/data,data_file_raw=on"),
        # Not luks, for which qemu-img measures the CPU and now and then gives up; the header says
        # "encrypted" in the same place.
        ("--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s"),
    ],
    ids=["backing", "data-file", "raw-data-file", "encrypted"],
)
async def test_what_names_another_file_or_is_encrypted_is_refused(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    image = tmp_path / "image"
    await create(image, MIB, "-f", "qcow2", *(option.format(dir=tmp_path) for option in options))
    with pytest.raises(UnsafeImageError, match=r"backing file|data file|encrypted"):
        inspected(image)


@pytest.mark.parametrize("image_format", ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"])
async def test_other_formats_of_qemu_img_are_refused(tmp_path: Path, image_format: str) -> None:
    image = tmp_path / "image"
    await create(image, 4 * MIB, "-f", image_format)
    with pytest.raises(UnsafeImageError, match="qcow2 and raw are accepted"):
        inspected(image)


async def test_fixed_vhd_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "image"
    await create(image, 4 * MIB, "-f", "vpc", "-o", "subformat=fixed,force_size")
    with pytest.raises(UnsafeImageError, match="VHD"):
        inspected(image)


async def test_qemu_opens_no_other_file_for_any_header_that_we_accept(tmp_path: Path) -> None:
    """One field after the other is set to values that mean something elsewhere."""
    image = tmp_path / "image"
    sound = Qcow2(extensions=[(FEATURE_NAMES, bytes(48))]).build()
    judged = 0
    for offset in range(4, 184, 4):
        for value in (0, 1, 2, 4, 112, 0x44415441, 0xE2792ACA):
            content = bytearray(sound)
            struct.pack_into(">I", content, offset, value)
            image.write_bytes(content)
            try:
                inspected(image)
            except UnsafeImageError:
                continue
            # Most of these are the sound image again, or differ in what only names features.
            if content == sound or judged >= 40:
                continue
            judged += 1
            info = await qemu_img("info", "-f", "qcow2", str(image), check=False)
            assert "backing-filename" not in info
            assert "data-file" not in info.get("format-specific", {}).get("data", {})
    assert judged > 10
