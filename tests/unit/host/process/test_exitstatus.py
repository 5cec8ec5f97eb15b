import signal

import pytest

from qemu_node.host.process.exitstatus import describe_exit


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
