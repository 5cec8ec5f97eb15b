import gzip
import lzma
import random
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.images.errors import UnsafeImageError
from qemu_node.images.format import unpack
from qemu_node.images.format.unpack import PIECE_BYTES, Packing, Unpacker, packing_of

CONTENT = random.Random(1).randbytes(300_000) + bytes(3_000_000) + b"end"
PACK: dict[Packing, Callable[[bytes], bytes]] = {
    Packing.GZIP: gzip.compress,
    Packing.XZ: lzma.compress,
    Packing.ZSTD: zstd.compress,
}
NO_LIMIT = 1 << 40


def unpacked(packed: bytes, *, step: int = 1 << 20, max_bytes: int = NO_LIMIT) -> bytes:
    packing = packing_of(packed)
    assert packing is not None
    unpacker = Unpacker(packing, max_bytes=max_bytes)
    pieces: list[bytes] = []
    for start in range(0, len(packed), step):
        pieces.extend(unpacker.feed(packed[start : start + step]))
    unpacker.finish()
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("packing", Packing)
@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_file_is_unpacked_in_whatever_parts_it_comes(packing: Packing, step: int) -> None:
    content = CONTENT[290_000:400_000] if step == 1 else CONTENT
    packed = PACK[packing](content)
    assert packing_of(packed) is packing
    assert unpacked(packed, step=step) == content


@pytest.mark.parametrize("packing", Packing)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_several_members_are_one_file(packing: Packing, step: int) -> None:
    pack = PACK[packing]
    assert unpacked(pack(b"one") + pack(b"") + pack(b"two"), step=step) == b"onetwo"


@pytest.mark.parametrize("packing", Packing)
def test_padding_is_no_content(packing: Packing) -> None:
    assert unpacked(PACK[packing](b"one") + bytes(512)) == b"one"


def test_padding_between_members_is_xz_s_alone() -> None:
    assert unpacked(lzma.compress(b"1") + bytes(4) + lzma.compress(b"2")) == b"12"
    with pytest.raises(UnsafeImageError, match="after the end"):
        unpacked(zstd.compress(b"1") + bytes(4) + zstd.compress(b"2"))
    assert unpacked(gzip.compress(b"1") + bytes(4) + gzip.compress(b"2")) == b"1"


def test_zstd_frames_that_are_to_be_skipped_are_skipped() -> None:
    skipped = b"\x55\x2a\x4d\x18\x04\0\0\0abcd"
    assert packing_of(skipped) is Packing.ZSTD
    assert unpacked(skipped + zstd.compress(b"one") + skipped, step=3) == b"one"


GARBAGE = [b"x", b"\xff" * 100, b"\0\0\0\0garbage behind the padding", b"\x1fx" * 10]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_follows_gzip_is_left_out_as_gzip_does(garbage: bytes, step: int) -> None:
    assert unpacked(gzip.compress(b"one") + gzip.compress(b"2") + garbage, step=step) == b"one2"


def test_a_gzip_member_that_is_damaged_is_no_garbage() -> None:
    for damaged in (b"\x1f\x8b\x09" + bytes(20), gzip.compress(b"two")[:-1]):
        with pytest.raises(UnsafeImageError, match=r"damaged|truncated"):
            unpacked(gzip.compress(b"one") + damaged)


@pytest.mark.parametrize("packing", [Packing.XZ, Packing.ZSTD])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_follows_the_end_is_refused(packing: Packing, garbage: bytes) -> None:
    with pytest.raises(UnsafeImageError, match=r"more bytes|truncated"):
        unpacked(PACK[packing](b"one") + garbage)


@pytest.mark.parametrize("packing", Packing)
def test_truncated_file_is_refused(packing: Packing) -> None:
    packed = PACK[packing](CONTENT[:1000])
    for length in (8, 30, len(packed) // 2, len(packed) - 1):
        with pytest.raises(UnsafeImageError, match=r"truncated|damaged"):
            unpacked(packed[:length])


@pytest.mark.parametrize("packing", Packing)
def test_damaged_file_is_refused(packing: Packing) -> None:
    packed = bytearray(lzma.compress(CONTENT) if packing is Packing.XZ else PACK[packing](CONTENT))
    # zstd.compress adds no checksum, so its header is hit; the others end in one.
    packed[-6 if packing is not Packing.ZSTD else 4] ^= 0xFF
    with pytest.raises(UnsafeImageError, match=r"damaged|truncated|memory|window"):
        unpacked(bytes(packed))


@pytest.mark.parametrize("packing", Packing)
def test_bomb_goes_off_no_further_than_allowed(packing: Packing) -> None:
    bomb = PACK[packing](bytes(64 << 20))
    assert len(bomb) < 70_000
    unpacker = Unpacker(packing, max_bytes=5 << 20)
    got = 0
    with pytest.raises(UnsafeImageError, match=r"more than the 5\.0 MiB allowed"):  # noqa: PT012
        for piece in unpacker.feed(bomb):
            got += len(piece)
    assert got <= 5 << 20


def test_xz_that_wants_much_memory_is_refused() -> None:
    packed = bytearray(lzma.compress(b"x"))
    # Making such a file takes as much memory, so its block header is changed (xz-file-format.txt,
    # 3.1 and 5.3.1): the filter LZMA2 has one byte of properties, here for a dictionary of 1 GiB.
    header = slice(12, 12 + (packed[12] + 1) * 4)
    packed[packed.index(b"\x21\x01") + 2] = 36
    crc = zlib.crc32(bytes(packed[header][:-4]))
    packed[header.stop - 4 : header.stop] = crc.to_bytes(4, "little")
    with pytest.raises(UnsafeImageError, match=r"needs more than 130\.0 MiB of memory"):
        unpacked(bytes(packed))


def test_zstd_that_wants_a_large_window_is_refused() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 28}
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(b"x" * 100) + compressor.flush()
    with pytest.raises(UnsafeImageError, match="window of more than 128 MiB"):
        unpacked(packed)


SKIPPED = b"\x50\x2a\x4d\x18" + bytes(4)


@pytest.mark.parametrize(
    "member",
    [gzip.compress(b""), gzip.compress(b"x"), lzma.compress(b""), zstd.compress(b"x"), SKIPPED],
    ids=["gzip-empty", "gzip", "xz-empty", "zstd", "zstd-skipped"],
)
@pytest.mark.parametrize("step", [100, 1 << 20])
def test_members_that_hold_next_to_nothing_are_refused(member: bytes, step: int) -> None:
    assert unpacked(member * 1000, step=step) in (b"", b"x" * 1000)
    with pytest.raises(UnsafeImageError, match="almost empty"):
        unpacked(member * 1100, step=step)


@pytest.mark.parametrize("packing", Packing)
def test_members_as_compressors_make_them_are_taken_however_many(packing: Packing) -> None:
    assert len(unpacked(PACK[packing](bytes(1 << 14)) * 3000)) == 3000 << 14


def test_what_follows_a_short_member_is_not_handed_on_with_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = gzip.compress(bytes(1 << 14)) * 3000
    handed_bytes = 0
    decompress = unpack._GzipDecoder.decompress

    def counted(self: unpack._GzipDecoder, data: memoryview, max_length: int) -> bytes:
        nonlocal handed_bytes
        handed_bytes += len(data)
        return decompress(self, data, max_length)

    monkeypatch.setattr(unpack._GzipDecoder, "decompress", counted)
    unpacked(packed, step=len(packed))
    # A member of 46 bytes is looked for in 1 KiB.
    assert handed_bytes < 3000 * 2048


@pytest.mark.parametrize("head", [b"", b"\x1f", b"QFI\xfb", b"\xfd7zXZ", b"BZh9", bytes(6)])
def test_other_files_are_not_compressed(head: bytes) -> None:
    assert packing_of(head) is None


@settings(max_examples=200)
@given(st.sampled_from(Packing), st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_unpacked_or_refused(packing: Packing, tail: bytes, step: int) -> None:
    data = PACK[packing](b"x")[:7] + tail
    unpacker = Unpacker(packing, max_bytes=1 << 20)
    try:
        for start in range(0, len(data), step):
            for piece in unpacker.feed(data[start : start + step]):
                assert len(piece) <= PIECE_BYTES
        unpacker.finish()
    except UnsafeImageError:
        pass


@given(st.sampled_from(Packing), st.lists(st.binary(max_size=2000), max_size=4), st.integers(1, 99))
def test_what_was_packed_comes_out(packing: Packing, members: list[bytes], step: int) -> None:
    packed = b"".join(PACK[packing](member) for member in members) or PACK[packing](b"")
    assert unpacked(packed, step=step) == b"".join(members)
