import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.cli.consolefilter import ConsoleFilter


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
    shown = ConsoleFilter().feed(b"a" + hidden + b"b")
    assert shown.replace(b"\x1b", b"") == b"ab"
    assert b"\x1b]" not in shown


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


_PIECES = st.sampled_from(
    [b"\x1b", b"]", b"P", b"\\", b"\x07", b"\xc2", b"\x9d", b"\x9c", b"\n", b"a", b"52;c;", b"[m"]
)


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(_PIECES, max_size=40))
def test_no_string_gets_through_however_the_bytes_are_cut(pieces: list[bytes]) -> None:
    whole = ConsoleFilter().feed(b"".join(pieces))
    cut = ConsoleFilter()
    assert b"".join(cut.feed(piece) for piece in pieces) == whole
    for introducer in (b"\x1b]", b"\x1bP", b"\xc2\x9d"):
        assert introducer not in whole
