"""Waiting for the first of several things, without leaving the others behind."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from qemu_node.host.concurrency.cancellation import finish

T = TypeVar("T")


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
