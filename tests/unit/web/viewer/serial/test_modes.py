from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.viewer.serial.modes import Modes


def after(*pieces: bytes) -> bytes:
    """Return what sets a terminal as one that has shown `pieces`."""
    modes = Modes()
    for piece in pieces:
        modes.feed(piece)
    return modes.sequence()


PIECES = st.sampled_from(
    [
        *(
            b"\x1b[?2004h",
            b"\x1b[?2004l",
            b"\x1b[?1;25l",
            b"\x1b[?1h",
            b"\x1b[?1049h",
            b"\x1b[?47l",
        ),
        *(b"\x1b=", b"\x1b>", b"\x1bc", b"\x1b[!p", b"\x1b[31m", b"\x1b[?1;2c"),
        *(b"text\r\n", b"\x1b", b"\x1b[?", b"2004h", b"\xe2\x94\x80"),
    ]
)


@pytest.mark.parametrize(
    ("printed", "sequence"),
    [
        (b"plain", b""),
        (b"\x1b[?2004h", b"\x1b[?2004h"),
        (b"\x1b[?2004h\x1b[?2004l", b""),
        (b"\x1b[?1;1000;2004h", b"\x1b[?1h\x1b[?1000h\x1b[?2004h"),
        (b"\x1b[?25l\x1b[?7l", b"\x1b[?7l\x1b[?25l"),
        (b"\x1b[?47h", b"\x1b[?1047h"),
        (b"\x1b[?1049h\x1b[?1047l", b""),
        (b"\x1b=", b"\x1b="),
        (b"\x1b=\x1b>", b""),
        (b"\x1b[?1h\x1b[?2004h\x1b=\x1bc", b""),
        (b"\x1b[?1h\x1b[?2004h\x1b=\x1b[!p", b"\x1b[?2004h"),
        (b"\x1b[?9999h\x1b[2004h\x1b[?2004$p", b""),
        (b"\x1b[?;2004h", b"\x1b[?2004h"),
        (b"\x1b[?" + b"1;" * 40 + b"2004h", b""),
    ],
)
def test_what_outlives_the_output_is_kept(printed: bytes, sequence: bytes) -> None:
    assert after(printed) == sequence


@given(st.lists(PIECES), st.lists(st.integers(0, 60)))
def test_the_cuts_of_a_stream_make_no_difference(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert after(*(stream[a:b] for a, b in pairwise(edges))) == after(stream)


@given(st.lists(PIECES))
def test_the_sequence_makes_the_same_terminal(pieces: list[bytes]) -> None:
    sequence = after(b"".join(pieces))
    assert after(sequence) == sequence


@given(st.binary())
def test_no_bytes_are_wrong(printed: bytes) -> None:
    after(printed)
