"""Which messages of a viewer reach QEMU."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.viewer.screen.rfb import ENCODINGS_MAX, ClientParser, RfbError

HELLO = b"RFB 003.008\n\x01\x01"
PIXEL_FORMAT = b"\0" + bytes(19)
ENCODINGS = struct.pack(">BxHiii", 2, 3, 7, 0, -258)
UPDATE = struct.pack(">BBHHHH", 3, 1, 0, 0, 1280, 800)
KEY_DOWN = struct.pack(">BBxxI", 4, 1, 0xFFE1)
KEY_UP = struct.pack(">BBxxI", 4, 0, 0xFFE1)
POINTER = struct.pack(">BBHH", 5, 1, 10, 10)
CUT_TEXT = struct.pack(">Bxxxi", 6, 5) + b"\x04\x04\x04\x04\x04"
EXTENDED_CUT_TEXT = struct.pack(">Bxxxi", 6, -4) + b"\1\0\0\1"
QEMU_KEY_DOWN = struct.pack(">BBHII", 255, 0, 1, 0x61, 0x1E)
QEMU_KEY_UP = struct.pack(">BBHII", 255, 0, 0, 0x61, 0x1E)
DESKTOP_SIZE = struct.pack(">BxHHBx", 251, 800, 600, 1) + bytes(16)
XVP = b"\xfa\0\1\2"

LOOKING = (PIXEL_FORMAT, ENCODINGS, UPDATE)
INPUT = (KEY_DOWN, KEY_UP, POINTER, QEMU_KEY_DOWN, QEMU_KEY_UP, DESKTOP_SIZE, XVP)
CLIPBOARD = (CUT_TEXT, EXTENDED_CUT_TEXT)
MESSAGES = (*LOOKING, *INPUT, *CLIPBOARD)


def fed(data: bytes, *, is_control: bool) -> bytes:
    return ClientParser(is_control=is_control).feed(data)


@pytest.mark.parametrize(
    "hello",
    [b"RFB 003.003\n\x01", b"RFB 003.007\n\x01\x01", HELLO],
    ids=["3.3", "3.7", "3.8"],
)
def test_the_handshake_of_each_version_passes(hello: bytes) -> None:
    assert fed(hello + UPDATE, is_control=False) == hello + UPDATE


def test_a_viewer_that_wants_the_screen_alone_gets_it_shared() -> None:
    assert fed(HELLO[:-1] + b"\0", is_control=True) == HELLO


def test_who_only_looks_cannot_type_point_or_resize() -> None:
    assert fed(HELLO + b"".join(MESSAGES), is_control=False) == HELLO + b"".join(LOOKING)


def test_who_controls_can_do_all_but_use_the_clipboard() -> None:
    passed = HELLO + b"".join((*LOOKING, *INPUT))
    assert fed(HELLO + b"".join(MESSAGES), is_control=True) == passed


@given(
    st.lists(st.sampled_from(MESSAGES), max_size=12),
    st.lists(st.integers(0, 300), max_size=20),
    st.booleans(),
)
def test_it_does_not_matter_where_reads_end(
    messages: list[bytes], cuts: list[int], is_control: bool
) -> None:
    data = HELLO + b"".join(messages)
    parser = ClientParser(is_control=is_control)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert b"".join(map(parser.feed, pieces)) == fed(data, is_control=is_control)


@pytest.mark.parametrize("is_control", [False, True])
def test_every_single_split_and_byte_by_byte(is_control: bool) -> None:
    data = HELLO + b"".join(MESSAGES)
    whole = fed(data, is_control=is_control)
    for at in range(len(data)):
        parser = ClientParser(is_control=is_control)
        assert parser.feed(data[:at]) + parser.feed(data[at:]) == whole
    parser = ClientParser(is_control=is_control)
    assert b"".join(parser.feed(data[at : at + 1]) for at in range(len(data))) == whole


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1", "does not speak RFB"),
        (b"RFB 003.008\n\x02", "log in"),
        (HELLO + b"\x01", "unknown type 1"),
        (HELLO + b"\xff\x01\0\0", "QEMU's message 1"),
        (HELLO + struct.pack(">BxH", 2, ENCODINGS_MAX + 1), "257 encodings"),
    ],
)
def test_what_is_not_known_ends_the_connection(data: bytes, why: str) -> None:
    with pytest.raises(RfbError, match=why):
        fed(data, is_control=True)


@pytest.mark.parametrize("size", [2**31 - 1, -(2**31)])
def test_a_clipboard_without_end_is_not_kept(size: int) -> None:
    parser = ClientParser(is_control=True)
    parser.feed(HELLO + struct.pack(">Bxxxi", 6, size))
    for _ in range(50):
        assert parser.feed(bytes(1 << 20)) == b""
        assert parser._unread == b""


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_break_it_or_are_kept_without_bound(data: bytes, is_control: bool) -> None:
    parser = ClientParser(is_control=is_control)
    parser.feed(HELLO)
    try:
        passed = parser.feed(data)
    except RfbError:
        return
    assert len(parser._unread) <= 8 + 16 * 255
    if not is_control:
        assert all(kind not in passed[:1] for kind in b"\4\5\6\xfa\xfb\xff")


def test_keys_that_are_still_down_can_be_released() -> None:
    parser = ClientParser(is_control=True)
    parser.feed(HELLO + KEY_DOWN + QEMU_KEY_DOWN + QEMU_KEY_DOWN)
    assert parser.releases() == KEY_UP + QEMU_KEY_UP
    assert parser.releases() == b""
    parser.feed(KEY_DOWN + KEY_UP)
    assert parser.releases() == b""


def test_who_only_looks_holds_nothing_down() -> None:
    parser = ClientParser(is_control=False)
    parser.feed(HELLO + KEY_DOWN + QEMU_KEY_DOWN)
    assert parser.releases() == b""
