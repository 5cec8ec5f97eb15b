"""Blocking work in a thread, which a cancellation does not leave behind."""

import asyncio
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_the_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in a thread as `asyncio.to_thread` does, and let no cancellation leave it.

    A cancelled `to_thread` returns while its thread still writes: to a descriptor that is closed
    next and may then be another file's, or into a directory that is being removed. Here the
    cancellation waits for the thread.
    """
    call = functools.partial(function, *args, **kwargs)
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # Seen: the cancellation is what counts.
        raise
