"""Descriptors of a real process, taken from it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu_node.host.process import command, pidfd
from qemu_node.host.process.command import Child
from qemu_node.host.process.pidfd import close_descriptors, copy_descriptors

NULL, ZERO = Path("/dev/null"), Path("/dev/zero")


@pytest.fixture
def child() -> Iterator[Child]:
    """Give a process that has /dev/zero open once, and /dev/null three times."""
    null, zero = os.open(NULL, os.O_RDWR), os.open(ZERO, os.O_RDONLY)
    child = command.spawn(["sleep", "600"], stderr_fd=null, pass_fds=[zero])
    os.close(null)
    os.close(zero)
    yield child
    end(child)


def end(child: Child) -> None:
    pidfd.send_signal(child.process, signal.SIGKILL)
    if child.exit_status() is None:
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
        child.exit_status()


def test_what_a_process_has_open_of_a_device_is_copied(child: Child) -> None:
    copies = copy_descriptors(child.process, ZERO, 9)
    try:
        (copy,) = copies
        assert os.read(copy, 4) == b"\0" * 4
        assert not os.get_inheritable(copy)
    finally:
        close_descriptors(copies)
    three = copy_descriptors(child.process, NULL, 9)
    assert len(three) == 3
    close_descriptors(three)


def test_no_more_is_copied_than_was_asked_for(child: Child) -> None:
    two = copy_descriptors(child.process, NULL, 2)
    assert len(two) == 2
    close_descriptors(two)


def test_a_process_with_very_many_descriptors_is_not_looked_through(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pidfd, "_LOOKED_AT_MAX", 2)
    two = copy_descriptors(child.process, NULL, 9)
    assert len(two) == 2
    close_descriptors(two)


def test_a_device_that_it_has_not_open_gives_none(child: Child) -> None:
    assert copy_descriptors(child.process, Path("/dev/full"), 9) == []
    assert copy_descriptors(child.process, Path("/dev/no-such-device"), 9) == []


def test_a_process_that_has_ended_gives_none(child: Child) -> None:
    pidfd.send_signal(child.process, signal.SIGKILL)
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    assert copy_descriptors(child.process, ZERO, 9) == []
    child.exit_status()
    assert copy_descriptors(child.process, ZERO, 9) == []
