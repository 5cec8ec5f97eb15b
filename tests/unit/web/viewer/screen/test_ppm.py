"""Which headers of a picture are believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.viewer.screen.ppm import (
    HEADER_MAX_BYTES,
    PIXELS_MAX,
    SIDE_MAX,
    PictureError,
    parse_header,
)


@pytest.mark.parametrize(
    ("begin", "pixels"),
    [(b"P6\n8 1\n255\n", 8), (b"P6\n1280 800\n255\n", 1024000), (b"P6\n4096 4096\n255\n", 1 << 24)],
    ids=["smallest-seen", "desktop", "largest"],
)
def test_what_qemu_writes_is_read(begin: bytes, pixels: int) -> None:
    header = parse_header(begin, len(begin) + 3 * pixels)
    assert header.width * header.height == pixels
    assert header.begin == len(begin)
    assert header.end == len(begin) + 3 * pixels


@pytest.mark.parametrize(
    ("begin", "size_bytes", "why"),
    [
        (b"", 0, "malformed"),
        (b"\x89PNG\r\n\x1a\n", 1000, "malformed"),
        (b"P5\n8 1\n255\n", 1000, "malformed"),
        (b"P6\n8 1\n65535\n", 1000, "malformed"),
        (b"P6\n-8 1\n255\n", 1000, "malformed"),
        (b"P6\n99999999999999999999 1\n255\n", 1 << 40, "malformed"),
        (b"P6\n" + b" " * 100 + b"8 1\n255\n", 1000, "malformed"),
        (b"P6\n0 1\n255\n", 1000, "no pixels"),
        (b"P6\n8000 4000\n255\n", 1 << 40, "too large: 8000x4000"),
        (b"P6\n16385 1\n255\n", 1 << 40, "too large"),
        (b"P6\n999999 999999\n255\n", 1 << 50, "too large"),
        (b"P6\n8 1\n255\n", 34, "not complete"),
    ],
)
def test_anything_else_is_refused(begin: bytes, size_bytes: int, why: str) -> None:
    with pytest.raises(PictureError, match=why):
        parse_header(begin, size_bytes)


@given(st.binary(max_size=100) | st.from_regex(rb"P6\s\d*\s\d*\s255\s"), st.integers(0, 1 << 48))
def test_no_bytes_make_it_read_more_than_the_limit(begin: bytes, size_bytes: int) -> None:
    try:
        header = parse_header(begin, size_bytes)
    except PictureError:
        return
    assert 0 < header.width <= SIDE_MAX
    assert 0 < header.height <= SIDE_MAX
    assert header.end <= min(size_bytes, 3 * PIXELS_MAX + HEADER_MAX_BYTES)
