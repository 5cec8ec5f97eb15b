import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.cli.vm.consolefilter import ConsoleFilter


@pytest.mark.parametrize(
    "shown",
    [
        b"login: ",
        b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b[H",
        b"\x1b(B\x1b7\x1b8\x1bM",
        "żółć „quoted” \u00e9".encode(),
        b"\x9d\x90 bytes of another encoding",
    ],
)
def test_what_draws_passes(shown: bytes) -> None:
    assert ConsoleFilter().feed(shown) == shown


@pytest.mark.parametrize(
    "hidden",
    [
        b"\x1b]52;c;cm0gLXJmIC8K\x07",
        b"\x1b]0;title\x1b\\",
        b"\x1b]3008;start=x\x1b\\",
        b"\x1bP+q544e\x1b\\",
        b"\x1bX sos \x1b\\",
        b"\x1b^ pm \x1b\\",
        b"\x1b_ apc \x1b\\",
        "\u009d52;c;eA==\u009c".encode(),
        "\u00900q\u009c".encode(),
        b"\x1b]never ended\x18",
        b"\x1b\x1b]52;c;x\x07",
    ],
)
def test_strings_that_act_on_the_terminals_owner_are_left_out(hidden: bytes) -> None:
    assert ConsoleFilter().feed(b"a" + hidden + b"b") == b"ab"


def test_a_string_that_is_never_ended_hides_one_line_at_most() -> None:
    filter_ = ConsoleFilter()
    assert filter_.feed(b"\x1b]52;c;" + b"x" * 100) == b""
    assert filter_.feed(b"\nnext line") == b"\nnext line"


def test_a_long_string_hides_a_bounded_number_of_bytes() -> None:
    shown = ConsoleFilter().feed(b"\x1b]" + b"x" * 10_000)
    assert 5_000 < len(shown) < 10_000


def test_an_escape_within_a_string_ends_it_and_counts() -> None:
    assert ConsoleFilter().feed(b"\x1b]0;title\x1b[31mred") == b"\x1b[31mred"
    assert ConsoleFilter().feed(b"\x1b]0;title\x1b]52;c;x\x07end") == b"end"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\xc2\xc2\x9d\x07\x9d", b"\x9d"),
        (b"\x1b\x1b]\x07]", b"]"),
        (b"\x1b\xc2\x9d\x07]", b"]"),
        (b"\x1b\n]52;c;x\x07end", b"\nend"),
        (b"\x1b\x7f]52;c;x\x07end", b"\x7fend"),
        (b"\x1b\x18]", b"\x18]"),
        (b"\x1b\xc3\xa9]", "\u00e9]".encode()),
    ],
)
def test_what_is_left_around_a_string_makes_no_new_one(data: bytes, shown: bytes) -> None:
    assert ConsoleFilter().feed(data) == shown


# A terminal obeys control characters within an escape sequence and goes on with it.
_STRING = re.compile(rb"\x1b[\x00-\x17\x19\x1c-\x1f\x7f]*[]PX^_]|\xc2[\x90\x98\x9d-\x9f]")
_PIECES = st.sampled_from(
    [
        b"\x1b",
        b"]",
        b"P",
        b"\\",
        b"\x07",
        b"\x18",
        b"\x7f",
        b"\xc2",
        b"\xc3",
        b"\x9d",
        b"\x9c",
        b"\n",
        b"a",
        b"52;c;",
        b"[m",
    ]
)


@settings(max_examples=1000)
@given(pieces=st.lists(_PIECES, max_size=40))
def test_no_string_gets_through_however_the_bytes_are_cut(pieces: list[bytes]) -> None:
    whole = ConsoleFilter().feed(b"".join(pieces))
    cut = ConsoleFilter()
    assert b"".join(cut.feed(piece) for piece in pieces) == whole
    assert _STRING.search(whole) is None
