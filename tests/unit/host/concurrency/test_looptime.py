import asyncio
import logging
import selectors
import socket
from collections.abc import Iterator

import pytest

from qemu_node.host.concurrency.looptime import (
    BUSY_EVENT,
    EVENTS_MAX,
    TimedSelector,
    timed_loop,
)


def busy_ms(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [vars(record)["ms"] for record in caplog.records if record.message == BUSY_EVENT]


def select_at(*moments: float) -> None:
    """Select as a loop does: what is given is when each call began and returned."""
    clock: Iterator[float] = iter(moments[1:])
    with TimedSelector(lambda: next(clock)) as selector:
        for _ in range(len(moments) // 2):
            selector.select(0)


def test_a_turn_that_keeps_others_waiting_is_logged_with_its_length(
    caplog: pytest.LogCaptureFixture,
) -> None:
    select_at(0.0, 1.0, 1.25, 2.0)
    assert busy_ms(caplog) == [250]
    assert caplog.records[0].levelno == logging.WARNING


def test_waiting_for_something_is_not_being_busy(caplog: pytest.LogCaptureFixture) -> None:
    select_at(0.0, 10.0, 10.05, 20.0, 20.05, 30.0)
    assert busy_ms(caplog) == []


def test_a_loop_with_it_does_what_a_loop_does() -> None:
    with asyncio.Runner(loop_factory=timed_loop) as runner:
        assert runner.run(asyncio.sleep(0, "done")) == "done"


def test_many_that_are_ready_are_served_a_few_at_a_time_and_each_in_its_turn() -> None:
    pairs = [socket.socketpair() for _ in range(3 * EVENTS_MAX + 1)]
    try:
        with TimedSelector() as selector:
            for ours, theirs in pairs:
                theirs.send(b"x")
                selector.register(ours, selectors.EVENT_READ)
            # Nobody reads: all of them stay ready.
            turns = [{key.fd for key, _ in selector.select(0)} for _ in range(8)]
            assert {len(turn) for turn in turns} == {EVENTS_MAX}
            assert set.union(*turns) == {ours.fileno() for ours, _ in pairs}
            quiet = pairs[EVENTS_MAX:]
            for ours, _ in quiet:
                ours.recv(1)
            assert len(selector.select(0)) == EVENTS_MAX
    finally:
        for pair in pairs:
            for end in pair:
                end.close()
