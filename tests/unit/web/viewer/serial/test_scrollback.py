from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.web.viewer.serial import scrollback as module
from qemu_node.web.viewer.serial.modes import Modes
from qemu_node.web.viewer.serial.scrollback import (
    KEPT_BYTES,
    OVERLAP_BYTES,
    Scrollback,
    without_overlap,
)

MODES = st.sampled_from([b"\x1b[?2004h", b"\x1b[?2004l", b"\x1b[?1h", b"\x1b[?25l", b"\x1b[?1049h"])


def modes_of(data: bytes) -> bytes:
    modes = Modes()
    modes.feed(data)
    return modes.sequence()


def test_modes_outlive_what_is_kept() -> None:
    scrollback = Scrollback()
    scrollback.add(b"\x1b[?2004h$ ")
    for n in range(20_000):
        scrollback.add(b"a line of output, the %06dth one, and so on\r\n" % n)
    replay = scrollback.replay()
    assert replay.startswith(b"\x1b[?2004ha line")
    assert replay.endswith(b"019999th one, and so on\r\n")
    assert len(replay) < KEPT_BYTES + (80 << 10)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(MODES, st.integers(1, 60_000), st.booleans()), min_size=1, max_size=20),
)
def test_a_replay_makes_the_terminal_of_somebody_who_was_there(
    pieces: list[tuple[bytes, int, bool]],
) -> None:
    scrollback, printed = Scrollback(), bytearray()
    for mode, size, has_lines in pieces:
        data = mode + (b"line\r\n" if has_lines else b"\xe2\x94\x80") * (size // 6)
        scrollback.add(data)
        printed += data
    replay = scrollback.replay()
    assert modes_of(replay) == modes_of(bytes(printed))
    assert bytes(printed).endswith(replay[-KEPT_BYTES:])
    assert len(replay) >= min(len(printed), KEPT_BYTES - 4096)
    # It begins with a whole character.
    assert replay.decode()


def test_the_log_comes_before_what_is_printed_now_and_nothing_twice() -> None:
    scrollback = Scrollback()
    scrollback.add(b"\x1b[32mtwo\x1b[0m\r\nthree\r\n")
    assert scrollback.wants_log()
    scrollback.put_log(b"one\ntwo\n")
    assert scrollback.replay() == b"one\r\n\x1b[32mtwo\x1b[0m\r\nthree\r\n"
    assert not scrollback.wants_log()
    scrollback.put_log(b"again\n")
    assert scrollback.replay().startswith(b"one")


def test_escapes_in_a_log_act_on_nobody() -> None:
    scrollback = Scrollback()
    scrollback.put_log(b"\x1b]52;c;eA==\x07\x1b[6none\n")
    assert scrollback.replay() == b"one\r\n"


def test_a_log_is_not_put_where_it_does_not_belong() -> None:
    scrollback = Scrollback()
    scrollback.add(bytes(OVERLAP_BYTES + 1))
    assert not scrollback.wants_log()


@given(st.text("ab\n", max_size=40), st.text("ab\n", max_size=40), st.text("ab\n", max_size=40))
def test_what_log_and_port_both_have_is_shown_once(old: str, both: str, new: str) -> None:
    log, live = (old + both).encode(), (both + new).encode()
    shown = without_overlap(log, live)
    # Of several possible overlaps the longest: nothing of what was printed is missing.
    assert log.startswith(shown)
    removed = log[len(shown) :]
    assert live.startswith(removed)
    assert len(removed) >= len(both.encode())


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_the_overlap_is_the_longest(log: bytes, live: bytes) -> None:
    longest = max(n for n in range(min(len(log), len(live)) + 1) if log.endswith(live[:n]))
    assert without_overlap(log, live) == log[: len(log) - longest]


def test_an_overlap_is_not_looked_for_in_much() -> None:
    live = b"a" * (4 * module.OVERLAP_BYTES)
    assert len(without_overlap(live, live)) == 3 * module.OVERLAP_BYTES
