"""The image's bytes. That other programs read it is shown in `integration/test_configdrive.py`."""

import struct
from datetime import UTC, datetime, timedelta, timezone

import pytest
from fakes.isoreader import read_image

from qemu_node.configdrive.iso9660 import build_image
from qemu_node.configdrive.isofields import BLOCK_BYTES

MADE_AT = datetime(2026, 3, 29, 1, 2, 3, tzinfo=UTC)
FILES = {
    "openstack/latest/user_data": b"#cloud-config\n",
    "openstack/content/0000": bytes(range(256)) * 50,
    "a/b/c/d/e/f/g/deep": b"deep",
    "Ünïcode and spaces/MixedCase.Long.Name.txt": b"x",
    "x" * 64: b"",
}


def image_of(files: dict[str, bytes], made_at: datetime = MADE_AT) -> bytes:
    return build_image("config-2", files, made_at)


def block(image: bytes, number: int) -> bytes:
    return image[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]


@pytest.mark.parametrize(
    "files",
    [
        FILES,
        {"one": b""},
        {"one-block": bytes(BLOCK_BYTES), "more": bytes(BLOCK_BYTES + 1)},
        {f"d{n}/f": b"%d" % n for n in range(300)},
        {f"{'n' * 60}{n:04}": b"%d" % n for n in range(256)},
        {"b/same": b"1", "a/same": b"2", "a.b/same": b"3", "A/same": b"4"},
    ],
    ids=["usual", "empty", "whole-blocks", "long-path-table", "long-directory", "like-names"],
)
def test_another_reader_finds_each_file_with_its_content(files: dict[str, bytes]) -> None:
    assert read_image(image_of(files)) == {"joliet": files, "rock ridge": files}


def test_volume_says_its_size_in_blocks_in_both_byte_orders() -> None:
    image = image_of(FILES)
    assert len(image) % BLOCK_BYTES == 0
    for number in (16, 17):
        little, big = block(image, number)[80:84], block(image, number)[84:88]
        assert struct.unpack("<I", little) == struct.unpack(">I", big)
        assert struct.unpack("<I", little)[0] * BLOCK_BYTES == len(image)


def test_smallest_image_is_long_enough_for_a_reader_that_probes_for_many_formats() -> None:
    assert len(image_of({"a": b""})) == 128 << 10


def test_label_is_that_of_both_volumes() -> None:
    image = image_of(FILES)
    assert block(image, 16)[:8] == b"\1CD001\1\0"
    assert block(image, 16)[40:72] == b"config-2".ljust(32)
    assert block(image, 17)[:8] == b"\2CD001\1\0"
    assert block(image, 17)[40:72].decode("utf-16-be") == "config-2".ljust(16)
    assert block(image, 17)[88:91] == b"%/E"
    assert block(image, 18)[:7] == b"\xffCD001\1"


def test_dates_are_utc() -> None:
    there = MADE_AT.astimezone(timezone(timedelta(hours=2)))
    assert image_of(FILES, there) == image_of(FILES)
    assert block(image_of(FILES), 16)[813:830] == b"2026032901020300\0"


def test_order_of_the_files_does_not_matter() -> None:
    assert image_of(dict(reversed(FILES.items()))) == image_of(FILES)


def test_plain_names_are_short_and_say_nothing_of_a_file() -> None:
    image = image_of({"secret/name": b""})
    root = struct.unpack_from("<I", block(image, 16), 156 + 2)[0]
    assert b"D0000001" in block(image, root)
    assert b"F0000000.;1" in block(image, root + 1)
