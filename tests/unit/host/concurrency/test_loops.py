import asyncio
import logging

import pytest

from qemu_node.errors import HostError
from qemu_node.host.concurrency import loops
from qemu_node.host.concurrency.loops import Troubles, attempt, repeat


class Work:
    """Fails as it is told, in order, then works; `pauses` are what the loop waited."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors = list(errors)
        self.pauses: list[float] = []
        self.troubles = Troubles()
        self.lines: list[list[str]] = []

    async def __call__(self) -> None:
        error = self._errors.pop(0)
        if error is not None:
            raise error

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.lines.append(self.troubles.lines())
        if not self._errors:
            raise asyncio.CancelledError


async def run(
    work: Work, monkeypatch: pytest.MonkeyPatch, interval_s: float = 1.0, first_s: float = 0.0
) -> None:
    monkeypatch.setattr("qemu_node.host.concurrency.loops.asyncio.sleep", work.sleep)
    with pytest.raises(asyncio.CancelledError):
        await repeat(
            work, name="work", interval_s=interval_s, troubles=work.troubles, first_s=first_s
        )


async def test_a_loop_goes_on_after_any_error_and_waits_longer_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Work(None, ValueError("no"), OSError(24, "Too many open files"), HostError("x"), None)
    await run(work, monkeypatch)
    assert work.pauses == [1.0, 2.0, 4.0, 8.0, 1.0]
    assert work.lines == [
        [],
        ["work does not work: ValueError: no"],
        ["work does not work: [Errno 24] Too many open files"],
        ["work does not work: x"],
        [],
    ]


async def test_the_pause_has_a_bound_and_is_never_shorter_than_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = Work(*[ValueError("no")] * 20)
    await run(short, monkeypatch, 0.25)
    assert max(short.pauses) == 300.0
    long = Work(*[ValueError("no")] * 3)
    await run(long, monkeypatch, 3600.0)
    assert long.pauses == [3600.0] * 3


async def test_the_first_time_may_have_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(None, None)
    await run(work, monkeypatch, first_s=5.0)
    assert work.pauses == [5.0, 1.0, 1.0]


async def test_a_lasting_failure_is_logged_once_and_its_end_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, loops.__name__)
    await run(Work(HostError("x"), HostError("x"), KeyError("y"), None), monkeypatch)
    assert [(entry.levelname, entry.getMessage()) for entry in caplog.records] == [
        ("WARNING", "does not work; tried again"),
        ("ERROR", "does not work; tried again"),
        ("INFO", "works again"),
    ]


async def test_an_attempt_that_fails_keeps_nothing_else_from_its_turn() -> None:
    troubles = Troubles()
    await attempt(Work(ValueError("no")), name="work", troubles=troubles)
    assert troubles.lines()
    assert await attempt(lambda: asyncio.sleep(0, 7), name="work", troubles=troubles) == 7
    assert not troubles.lines()
