import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import pytest
from fakes.cancelling import CancelledAt, Moment

from qemu_node.host.concurrency.cancellation import Undo, finish, race
from qemu_node.host.concurrency.threads import Worker, to_the_end

moments = pytest.mark.parametrize("moment", Moment)


class Ledger:
    """What is open; opening and closing take some turns of the loop each."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.failed: list[str] = []

    async def make(self, name: str, turns: int = 1) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        self.open.add(name)
        return name

    async def drop(self, name: str) -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.failed.append(name)
                raise
        self.open.remove(name)


async def try_every_await(attempt: Callable[[Ledger], Awaitable[set[str]]], moment: Moment) -> int:
    """Cancel `attempt` at each pair of its awaits; it keeps what it returns or leaves nothing.

    Returns how many ways were tried.
    """
    ways = 0
    for first in count(1):
        awaits = 0
        for second in count(first):
            ledger = Ledger()

            async def doing(ledger: Ledger = ledger) -> set[str]:
                return await attempt(ledger)

            steps = CancelledAt(doing(), (first, second), moment)
            try:
                kept = await asyncio.ensure_future(steps)
            except asyncio.CancelledError:
                kept = set()
            ways += 1
            awaits = steps.awaits
            assert (ledger.open, ledger.failed) == (kept, []), (first, second)
            if awaits < second:
                break
        if awaits < first:
            return ways
    raise AssertionError


@moments
async def test_undoing_goes_on_to_its_end_however_often_it_is_cancelled(moment: Moment) -> None:
    async def attempt(ledger: Ledger) -> set[str]:
        async with Undo() as undo:
            for name in ("a", "b", "c"):
                await finish(ledger.make(name), discard=ledger.open.discard)
                undo.push_async_callback(ledger.drop, name)
        return {"a", "b", "c"}

    assert await try_every_await(attempt, moment) > 9


@moments
@pytest.mark.parametrize("others", [1, 2, 3])
async def test_a_race_leaves_nothing_open_but_what_the_winner_made(
    moment: Moment, others: int
) -> None:
    async def attempt(ledger: Ledger) -> set[str]:
        # Two of them end in the same turn of the loop.
        contenders = (ledger.make("a", 2), ledger.make("b", others))
        _, won = await race(*contenders, discard=ledger.drop)
        return {won}

    assert await try_every_await(attempt, moment) > 2


@moments
async def test_a_thread_is_never_left_behind(moment: Moment) -> None:
    async def attempt(ledger: Ledger) -> set[str]:
        async with Undo() as undo:
            undo.callback(ledger.open.discard, "a")
            await to_the_end(ledger.open.add, "a")
        return {"a"}

    assert await try_every_await(attempt, moment) > 1


@moments
async def test_a_worker_leaves_no_call_behind(moment: Moment) -> None:
    worker = Worker("test")

    async def attempt(ledger: Ledger) -> set[str]:
        async with Undo() as undo:
            undo.callback(ledger.open.discard, "a")
            await worker.to_the_end(ledger.open.add, "a")
        return {"a"}

    assert await try_every_await(attempt, moment) > 1
    worker.close()


async def test_the_failure_of_an_undo_is_raised_and_the_others_are_done() -> None:
    done: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def work() -> None:
        async with Undo() as undo:
            undo.callback(done.append, "first")
            undo.push_async_callback(fail)
            raise KeyError

    with pytest.raises(ValueError, match="no"):
        await work()
    assert done == ["first"]


async def test_work_that_goes_on_is_ended_with_the_loop() -> None:
    work = asyncio.ensure_future(asyncio.Event().wait())
    waiting = asyncio.ensure_future(finish(work))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_the_first_of_those_that_end_at_once_counts_and_its_failure_is_raised() -> None:
    async def fail() -> str:
        raise ValueError("no")

    assert await race(Ledger().make("a", 1), Ledger().make("b", 1)) == (0, "a")
    with pytest.raises(ValueError, match="no"):
        await race(fail(), Ledger().make("b", 0))
