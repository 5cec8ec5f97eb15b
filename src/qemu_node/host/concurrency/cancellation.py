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
    """The result of work. A cancellation of a task that waits for it waits for the result, too.

    If what a task waits for refuses to be cancelled, `Task.cancel` remembers the request and
    raises `CancelledError` in the task when the wait is over.
    """

    def cancel(self, msg: Any | None = None) -> bool:
        """Refuse."""
        return False

    def take(self, done: "asyncio.Future[Any]") -> None:
        """Copy the result or the error of `done`."""
        if done.cancelled():
            # Only the end of the event loop does this: it cancels every task.
            super().cancel()
        elif (error := done.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(done.result())


async def finish(work: Awaitable[T], *, discard: Callable[[T], object] | None = None) -> T:
    """Return the result of `work`. A cancellation takes effect only when `work` has ended.

    Args:
        work: A coroutine, which becomes a task of its own, or a future.
        discard: Called with a result that the caller does not get because of a cancellation.
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
    """Undoes the steps of a block that fails or is cancelled, in reverse order.

    All undo steps run, however often the block's task is cancelled meanwhile. A block that
    succeeds keeps what it has made.
    """

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """If the block failed, undo all and raise its error again."""
        # After a success nothing may be awaited: a cancellation there would have nothing to undo.
        if exc_type is None:
            self.pop_all()
        else:
            await finish(super().__aexit__(exc_type, exc, traceback))


async def race(
    *contenders: Coroutine[Any, Any, T], discard: Callable[[T], Awaitable[object]] | None = None
) -> tuple[int, T]:
    """Return the position and the result of the contender that ends first.

    The others are cancelled and waited for; if the race is cancelled, all of them are. If several
    end at once, the first in order wins. The winner's exception is raised; those of the others are
    dropped.

    Args:
        contenders: The coroutines.
        discard: Called with each result that the caller does not get: two may end at once, or the
            race may be cancelled after one has ended.
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
