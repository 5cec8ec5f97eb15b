import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.host.process.exitstatus import (
    LAST_WORDS_CHARS,
    describe_exit,
    last_words,
    with_last_words,
)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-signal.SIGRTMIN, "was killed by SIGRTMIN"),
        (-(signal.SIGRTMIN + 1), "was killed by SIGRTMIN+1"),
        (-32, "was killed by signal 32"),  # glibc's own
        (-127, "was killed by signal 127"),
        (3, "failed with exit code 3"),
        (0, "ended with exit code 0"),
    ],
)
def test_every_end_of_a_process_has_words(status: int, words: str) -> None:
    assert describe_exit(status) == words


@given(st.binary() | st.text())
def test_last_words_are_one_bounded_line_whatever_was_said(said: bytes | str) -> None:
    assert last_words(said).isprintable()
    assert len(last_words(said * 1000)) <= LAST_WORDS_CHARS


def test_of_many_words_the_last_count() -> None:
    said = b"begin\n" + b"x" * LAST_WORDS_CHARS + b"\nno such\n  device\n"
    assert last_words(said).endswith("x no such device")
    assert "begin" not in last_words(said)


def test_a_process_that_said_nothing_leaves_the_problem_alone() -> None:
    assert with_last_words("it ended", b" \n") == "it ended"
    assert with_last_words("it ended", "no\nmemory\n") == "it ended: no memory"
