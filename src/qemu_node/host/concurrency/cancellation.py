"""Work that no cancellation leaves half done: undoing, closing, the losers of a race.

Owns the one way to wait for such work. Does not own what the work is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Outcome(asyncio.Future[Any]):
    """The result of work. A task that waits for it is cancelled once the result is there.

    A task whose `cancel` finds that what it waits for refuses to be cancelled keeps the request,
    and raises `CancelledError` where it would go on (`Task.cancel`).
    """

    def cancel(self, msg: Any | None = None) -> bool:
        """Refuse."""
        return False

    def take(self, done: "asyncio.Future[Any]") -> None:
        """Take over the result or the error of `done`."""
        if done.cancelled():
            # By the end of the event loop alone, which cancels every task.
            super().cancel()
        elif (error := done.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(done.result())


async def finish(work: Awaitable[T], *, discard: Callable[[T], object] | None = None) -> T:
    """Return the result of `work`. A cancellation takes effect only when `work` has ended.

    Args:
        work: A coroutine, which becomes a task of its own, or a future.
        discard: Called with a result that a cancellation keeps from the caller.
    """
    doing = asyncio.ensure_future(work)
    outcome = Outcome()
    doing.add_done_callback(outcome.take)
    try:
        found: T = await outcome
    except asyncio.CancelledError:
        if discard is not None and not doing.cancelled() and doing.exception() is None:
            discard(doing.result())
        raise
    return found


class Undo(AsyncExitStack):
    """Undoes the steps of a block that fails or is cancelled, the last one first.

    All of it is done, however often the block's task is cancelled meanwhile. A block that ends
    well keeps what it has made.
    """

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Undo all if the block failed, and raise its error again."""
        # Nothing may be awaited after a good end: a cancellation there would find nothing to undo.
        if exc_type is None:
            self.pop_all()
        else:
            await finish(super().__aexit__(exc_type, exc, traceback))


async def race(
    *contenders: Coroutine[Any, Any, T], discard: Callable[[T], Awaitable[object]] | None = None
) -> tuple[int, T]:
    """Return the position and result of the contender that ends first.

    The others are cancelled and waited for, all of them if the race is cancelled. Where several end
    at once the first in order counts. The exception of the one that counts is raised; those of the
    others are dropped.

    Args:
        contenders: What is waited for.
        discard: Called with each result that the caller does not get: two may end at once, or the
            race may be cancelled when one has ended.
    """
    tasks = [asyncio.ensure_future(contender) for contender in contenders]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    except BaseException:
        await finish(_end(tasks, discard))
        raise
    first = next(n for n, task in enumerate(tasks) if task.done())
    winner = tasks.pop(first)
    try:
        await finish(_end(tasks, discard))
    except BaseException:
        await finish(_end([winner], discard))
        raise
    return first, winner.result()


async def _end(
    tasks: "Sequence[asyncio.Task[T]]", discard: Callable[[T], Awaitable[object]] | None
) -> None:
    """Cancel `tasks`, return when they have ended, and discard their results."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if discard is not None and not isinstance(result, BaseException):
            await discard(result)
