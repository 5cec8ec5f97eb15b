import random
import struct
from typing import Any

import pytest
from fakes.qcow2_images import BACKING_FORMAT, DATA_FILE, ENCRYPTION_HEADER, FEATURE_NAMES, Qcow2
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import JobError
from qemu_node.images.errors import UnsafeImageError
from qemu_node.images.format import qcow2

GIB = 1 << 30


def check(image: bytes, max_bytes: int | None = 64 * GIB) -> qcow2.Qcow2Header:
    return qcow2.check_header(
        image[: qcow2.HEAD_BYTES], file_size_bytes=len(image), max_virtual_size_bytes=max_bytes
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"version": 2},
        {"header_bytes": 104},
        {"extensions": [(FEATURE_NAMES, bytes(48))]},
        {"incompatible": 1 << 3, "compression": 1},
        {"incompatible": 1 << 4, "l1_entries": 4},
        {"compatible": 1},
    ],
    ids=str,
)
def test_sound_image_is_accepted(fields: dict[str, Any]) -> None:
    assert check(Qcow2(**fields).build()).virtual_size_bytes == GIB


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": 1}, "version is 1"),
        ({"version": 4}, "version is 4"),
        ({"backing_offset": 200, "backing_bytes": 11}, "backing file"),
        ({"backing_offset": 200}, "backing file"),
        ({"backing_bytes": 11}, "backing file"),
        ({"extensions": [(BACKING_FORMAT, b"raw")]}, "backing file"),
        ({"incompatible": 1 << 2}, "external data file"),
        ({"autoclear": 1 << 1}, "external data file"),
        ({"extensions": [(DATA_FILE, b"/etc/shadow")]}, "external data file"),
        (
            {"extensions": [(FEATURE_NAMES, bytes(48)), (DATA_FILE, b"/etc/shadow")]},
            "external data file",
        ),
        ({"version": 2, "extensions": [(DATA_FILE, b"/etc/shadow")]}, "external data file"),
        ({"crypt_method": 1}, "encrypted"),
        ({"crypt_method": 2}, "encrypted"),
        ({"extensions": [(ENCRYPTION_HEADER, bytes(16))]}, "encrypted"),
        ({"incompatible": 1}, "dirty"),
        ({"incompatible": 1 << 1}, "corrupt"),
        ({"incompatible": 1 << 5}, "unknown incompatible features 0x20"),
        ({"incompatible": 1 << 63}, "unknown incompatible features"),
        ({"incompatible": 1 << 3, "compression": 2}, "compression type is 2"),
        ({"compression": 1}, "compression type is 1"),
        ({"cluster_bits": 8}, "cluster_bits are 8"),
        ({"cluster_bits": 22}, "cluster_bits are 22"),
        ({"cluster_bits": 0xFFFFFFFF}, "cluster_bits"),
        ({"incompatible": 1 << 4, "cluster_bits": 13}, "too small for extended L2"),
        ({"refcount_order": 7}, "refcount_order is 7"),
        ({"header_bytes": 96}, "header_length is 96"),
        ({"header_bytes": 107}, "header_length is 107"),
        ({"header_bytes": 0xFFFFFFF8}, "does not end inside the first cluster"),
        ({"virtual_size_bytes": 0}, "virtual size is 0"),
        ({"virtual_size_bytes": 65 * GIB}, "virtual size is"),
        ({"virtual_size_bytes": (1 << 64) - 1}, "virtual size is"),
        ({"l1_entries": 1}, "L1 table is too small"),
        ({"l1_entries": 0}, "L1 table is too small"),
        ({"l1_entries": 1 << 30}, "L1 table has"),
        ({"l1_entries": 10_000}, "L1 table lies outside the file"),
        ({"l1_offset": 1 << 40}, "L1 table lies outside the file"),
        ({"l1_offset": 0}, "L1 table is not at the start of a cluster"),
        ({"l1_offset": (3 << 16) + 8}, "L1 table is not at the start of a cluster"),
        ({"refcount_offset": 1 << 62}, "refcount table lies outside the file"),
        ({"refcount_clusters": 0}, "refcount table has 0"),
        ({"refcount_clusters": 0xFFFFFFFF}, "refcount table has"),
        ({"snapshots": 1, "snapshots_offset": 1 << 40}, "snapshots lies outside"),
        ({"snapshots": 0x7FFFFFFF}, "snapshots lies outside"),
        ({"extensions": [(0x12345678, b"x")]}, "unknown header extension 0x12345678"),
        ({"extensions": [(FEATURE_NAMES, bytes(65536))]}, "beyond the first cluster"),
        ({"extensions": [(FEATURE_NAMES, bytes(48))] * 65}, "more than 64"),
    ],
    ids=str,
)
def test_dangerous_image_is_refused_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsafeImageError, match=reason):
        check(Qcow2(**fields).build())


def test_extension_whose_length_wraps_is_refused() -> None:
    image = bytearray(Qcow2().build())
    struct.pack_into(">II", image, 112, FEATURE_NAMES, 0xFFFFFFFF)
    with pytest.raises(UnsafeImageError, match="beyond the first cluster"):
        check(bytes(image))


@pytest.mark.parametrize("size", [4, 71, 72, 103])
def test_header_cut_short_is_refused(size: int) -> None:
    with pytest.raises(UnsafeImageError, match=r"truncated|outside the file"):
        check(Qcow2().build()[:size])


def test_file_cut_before_its_l1_table_is_refused() -> None:
    with pytest.raises(UnsafeImageError, match="may be truncated"):
        check(Qcow2().build()[: 3 << 16])


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (1 << 63 | 4 << 16, "truncated"),
        (1 << 55, "truncated"),
        (1 << 60, "damaged"),
        (5, "damaged"),
    ],
)
def test_l2_table_outside_the_file_is_refused(entry: int, reason: str) -> None:
    image = Qcow2(l1=(entry, 0)).build()
    header = check(image)
    with pytest.raises(UnsafeImageError, match=reason):
        qcow2.check_l1_table(
            image[3 << 16 :][: header.l1_entries * 8], header, file_size_bytes=len(image)
        )


def test_l1_table_that_shrank_meanwhile_is_refused() -> None:
    header = check(Qcow2().build())
    with pytest.raises(UnsafeImageError, match="truncated"):
        qcow2.check_l1_table(b"\0" * 8, header, file_size_bytes=4 << 16)


def qemu_would_open_another_file(image: bytes) -> bool:
    """Read the header as QEMU's qcow2_do_open does, with no rule of ours."""
    version, backing_offset = struct.unpack_from(">IQ", image, 4)
    (cluster_bits,) = struct.unpack_from(">I", image, 20)
    incompatible = struct.unpack_from(">Q", image, 72)[0] if version == 3 else 0
    offset = struct.unpack_from(">I", image, 100)[0] if version == 3 else 72
    kinds = set()
    while offset + 8 <= min(1 << min(cluster_bits, 21), len(image)):
        kind, length = struct.unpack_from(">II", image, offset)
        if kind == 0:
            break
        kinds.add(kind)
        offset += 8 + (length + 7 & ~7)
    return bool(backing_offset or incompatible & 1 << 2 or kinds & {DATA_FILE, BACKING_FORMAT})


def edited(*edits: tuple[int, bytes]) -> bytes:
    image = bytearray(Qcow2(extensions=[(FEATURE_NAMES, bytes(48))]).build())
    for offset, data in edits:
        image[offset : offset + len(data)] = data
    return bytes(image)


u32 = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 1, 2, 3, 9, 16, 21, 104, 112, DATA_FILE, BACKING_FORMAT, FEATURE_NAMES]),
).map(lambda value: struct.pack(">I", value))
header_edits = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 50).map(lambda n: n * 4), u32),
        st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=12)),
    ),
    max_size=4,
)


@settings(max_examples=400)
@given(header_edits)
def test_no_accepted_header_names_another_file(edits: list[tuple[int, bytes]]) -> None:
    image = edited(*edits)
    try:
        check(image, None)
    except UnsafeImageError:
        return
    assert not qemu_would_open_another_file(image)


def test_of_ten_thousand_damaged_headers_none_leads_qemu_to_another_file() -> None:
    """Sound and dangerous headers, each with up to four fields or bytes of it made another."""
    fuzz = random.Random(2024_4467)  # CVE-2024-4467, so that a failure comes again
    words = (0, 1, 2, 3, 4, 9, 16, 21, 104, 112, DATA_FILE, BACKING_FORMAT, FEATURE_NAMES)
    origins = [
        Qcow2(),
        Qcow2(version=2),
        Qcow2(extensions=[(FEATURE_NAMES, bytes(48))]),
        Qcow2(incompatible=1 << 2, extensions=[(DATA_FILE, b"/etc/shadow")]),
        Qcow2(backing_offset=112, backing_bytes=11, extensions=[(BACKING_FORMAT, b"raw")]),
    ]
    heads = [origin.build()[: qcow2.HEAD_BYTES] for origin in origins]
    accepted = dangerous = 0
    for _ in range(10_000):
        head = bytearray(fuzz.choice(heads))
        for _ in range(fuzz.randrange(5)):
            if fuzz.random() < 0.5:
                word = fuzz.choice((*words, fuzz.randrange(1 << 32)))
                struct.pack_into(">I", head, 4 * fuzz.randrange(1, 45), word)
            else:
                head[fuzz.randrange(4, 184)] = fuzz.randrange(256)
        image = bytes(head)
        would_open = qemu_would_open_another_file(image)
        dangerous += would_open
        try:
            qcow2.check_header(image, file_size_bytes=4 << 16)
        except UnsafeImageError:
            continue
        accepted += 1
        assert not would_open, image[:184].hex()
    assert accepted > 500
    assert dangerous > 500


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(0, 1 << 40))
def test_any_bytes_are_judged_without_a_crash(tail: bytes, size: int) -> None:
    with pytest.raises(UnsafeImageError):
        qcow2.check_header(b"QFI\xfb\0\0\0\3" + tail, file_size_bytes=size)


@pytest.mark.parametrize("size", [512, 10 * GIB, 1 << 40, (1 << 40) + 512])
def test_overlay_header_says_what_was_asked(size: int) -> None:
    image = qcow2.build_overlay("/data/images/blobs/x.qcow2", "qcow2", size)
    backing_offset, backing_bytes = struct.unpack_from(">QI", image, 8)
    assert image[backing_offset : backing_offset + backing_bytes] == b"/data/images/blobs/x.qcow2"
    assert struct.unpack_from(">Q", image, 24) == (size,)
    assert len(image) < 1 << 20


def test_overlay_size_is_rounded_up_to_sectors() -> None:
    image = qcow2.build_overlay("/base", "raw", 513)
    assert struct.unpack_from(">Q", image, 24) == (1024,)


def test_overlay_is_refused_by_our_own_check_as_a_base() -> None:
    with pytest.raises(UnsafeImageError, match="backing file"):
        check(qcow2.build_overlay("/base", "raw", GIB))


@pytest.mark.parametrize("backing", ["base.qcow2", "nbd:host:1", "json:{}", "/" + "x" * 1023])
def test_overlay_on_a_relative_or_overlong_path_is_refused(backing: str) -> None:
    with pytest.raises(JobError, match="absolute"):
        qcow2.build_overlay(backing, "raw", GIB)


@pytest.mark.parametrize("size", [0, 1 << 62])
def test_impossible_disk_size_is_refused(size: int) -> None:
    with pytest.raises(JobError, match="not possible"):
        qcow2.build_overlay("/base", "raw", size)
