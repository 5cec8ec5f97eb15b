import sys
import unicodedata
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.vm.output.textfilter import TerminalFilter


def filtered(data: bytes) -> str:
    return TerminalFilter().feed(data).decode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        ("größe 漢字 🙂\n".encode(), "größe 漢字 🙂\n"),
        (b"line\r\nline\r\n", "line\nline\n"),
        (b"line\r\r\nline", "line\nline"),
        (b"10%\r20%\r\r100%\r\n", "10%\n20%\n100%\n"),
        (b"a\n\nb\r\n\r\nc", "a\n\nb\n\nc"),
        (b"a\n\rb", "a\nb"),
        (b"\r\n", "\n"),
        (b"bell\a back\b\0 del\x7f", "bell back del"),
        (b"\xff\xfe bad \xc3(", "\ufffd\ufffd bad \ufffd("),
    ],
)
def test_text_passes_and_line_ends_become_newlines(data: bytes, text: str) -> None:
    assert filtered(data) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x1b[01;31mred\x1b[0m", "red"),
        (b"\x1b[?25l\x1b[=3h\x1b[!pok", "ok"),
        (b"\x1b]0;title\x07ok", "ok"),
        (b"\x1b]52;c;aGFjaw==\x1b\\ok", "ok"),
        (b"\x1bPq#0;2;0\x1b\\ok", "ok"),
        (b"\x1b_apc\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\ok", "ok"),
        (b"\x1b(B\x1b)0\x1b7\x1b8\x1b=\x1b>ok", "ok"),
        (b"\x1b%Gok\x1b#8", "ok"),
        ("\x9b31mred \x9d0;title\x9cok".encode(), "red ok"),
        (b"\x1b\x1b[31mok", "ok"),
        (b"\x1b[31\x1b[32mok", "ok"),
        (b"\x1b]0;ti\x1b[31mok", "ok"),
        (b"\x1b[3\x18ok \x1b]0;t\x1aok", "ok ok"),
        ("\x1b[31é".encode(), "é"),
        ("a\u202eb\u2066c\u200fd".encode(), "abcd"),
    ],
)
def test_escape_sequences_leave_nothing(data: bytes, text: str) -> None:
    assert filtered(data) == text


@pytest.mark.parametrize(
    "data",
    [b"one\x1b[2;1Htwo", b"one\x1b[Etwo", b"one\x1bEtwo", b"one\x0btwo", "one\x85two".encode()],
)
def test_a_move_to_another_line_is_a_line_break(data: bytes) -> None:
    assert filtered(data) == "one\ntwo"


def test_what_firmware_draws_is_readable() -> None:
    screen = (
        b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01HBdsDxe: loading Boot0001\r\n\x1b[03;01HGRUB"
    )
    assert filtered(screen) == "BdsDxe: loading Boot0001\nGRUB"


@pytest.mark.parametrize("opening", [b"\x1b]0;", b"\x1bP", b"\x1b[", b"\x1b_", b"\x1b"])
def test_a_sequence_without_end_does_not_swallow_the_next_line(opening: bytes) -> None:
    assert filtered(opening + b"lost\nkernel panic\n").endswith("\nkernel panic\n")


def test_a_sequence_without_end_or_newline_is_given_up() -> None:
    text = TerminalFilter()
    assert text.feed(b"\x1b]0;" + b"x" * 5000) != b""
    assert text.feed(b"next") == b"next"


def test_break_line_ends_a_line_and_forgets_an_open_sequence() -> None:
    text = TerminalFilter()
    assert text.feed(b"half \xe2\x82\x1b]0;ti") == b"half \xef\xbf\xbd"
    assert text.break_line() == b"\n"
    assert text.break_line() == b""
    assert text.feed(b"new\n") == b"new\n"


# Bytes that mean something, so that sequences come about by chance.
_PIECES = st.sampled_from(
    [
        *(b"\x1b", b"[", b"]", b"P", b"\\", b";", b"31", b"m", b"H", b"\r", b"\n", b"\x07"),
        *(b"\xc2\x9b", b"\xc2\x9d", b"\xc2\x9c", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xae"),
        *(b"text", b"\xff", "é".encode(), b"\x1b[0m", b"D", b"(", b"!", b"\x0b", b"\x18", b"\0"),
    ]
)
_GUEST_OUTPUT = st.one_of(st.binary(max_size=300), st.lists(_PIECES, max_size=60).map(b"".join))


@settings(max_examples=300)
@given(_GUEST_OUTPUT)
def test_output_is_printable_text_and_nothing_else(data: bytes) -> None:
    for char in filtered(data):
        assert char in "\t\n" or unicodedata.category(char) not in ("Cc", "Zl", "Zp")
        assert (
            char not in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        )


@settings(max_examples=300)
@given(_GUEST_OUTPUT, st.lists(st.integers(0, 300), max_size=6))
def test_how_the_stream_is_cut_makes_no_difference(data: bytes, cuts: list[int]) -> None:
    text, pieces, begin = TerminalFilter(), [], 0
    for end in [*sorted(cuts), len(data)]:
        pieces.append(text.feed(data[begin:end]))
        begin = max(begin, end)
    assert b"".join(pieces) == TerminalFilter().feed(data)


@settings(max_examples=20)
@given(
    st.integers(4090, 4102), st.sampled_from([b"\x1b[", b"\x1b]", b"\x1bP"]), st.integers(1, 4100)
)
def test_the_bound_of_a_sequence_is_the_same_however_it_is_cut(
    length: int, opening: bytes, cut: int
) -> None:
    data = opening + b"1" * length + b"m\x07 text\n"
    text = TerminalFilter()
    assert text.feed(data[:cut]) + text.feed(data[cut:]) == TerminalFilter().feed(data)


@pytest.mark.parametrize("opening", [b"\x1b", b"\x1b[", b"\xc2\x9b", b"\x1b]0;", b"\xc2\x90"])
@pytest.mark.parametrize("more", [b"0", b" ", b"("])
def test_the_filter_keeps_no_more_than_a_sequence_may_be_long(opening: bytes, more: bytes) -> None:
    text = TerminalFilter()
    text.feed(opening)
    for _ in range(30):
        text.feed(more * 1000)
        assert len(text._open) < 10_000


# Each costs the most that is known of some step: sequences of every kind and of any length, line
# ends, bytes that are no text.
_COSTLY = [
    *(b"\x1bc", b"a\x1bc", b"a\x1b[H", b"\x1b", b"\x1b(", b"\x1b[", b"\x1b]", b"a\x1b]\x07"),
    *("\x9b".encode(), "\x90".encode(), b"a\x0b", b"a\r", b"a\r\x0b", b"\n\r", b"\xff", b"a\0"),
    *(b"\x1b" + b"(" * 5000, b"\x1b[" + b"1" * 5000, b"\x1b[" + b"1" * 4000 + b"H", b"plain\n"),
]


def calls_to_filter(data: bytes) -> int:
    """Return how many functions, of Python and of C, it takes to filter `data`."""
    text = TerminalFilter()
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event.endswith("call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        text.feed(data)
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("data", _COSTLY)
def test_the_number_of_steps_does_not_grow_with_what_a_guest_prints(data: bytes) -> None:
    # A few more may be the interpreter's own, such as those that a garbage collection makes.
    assert calls_to_filter(data * 200) < calls_to_filter(b"") + 100
