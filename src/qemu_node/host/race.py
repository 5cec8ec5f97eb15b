"""Waiting for the first of several things, without leaving the others behind."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def race(*contenders: Coroutine[Any, Any, T]) -> tuple[int, T]:
    """Return the position and result of the contender that ends first.

    The others are cancelled and waited for. Where several end at once the first in order counts.
    The exception of the one that counts is raised; those of the others are dropped.
    """
    tasks = [asyncio.ensure_future(contender) for contender in contenders]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = next(n for n, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return first, tasks[first].result()
