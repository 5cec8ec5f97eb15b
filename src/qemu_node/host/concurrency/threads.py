"""Blocking work in a thread. A cancellation waits for the thread."""

import asyncio
import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, ParamSpec, TypeVar

from qemu_node.host.concurrency.cancellation import Outcome, finish

P = ParamSpec("P")
T = TypeVar("T")


async def to_the_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in a thread as `asyncio.to_thread` does; a cancellation waits for it.

    A cancelled `asyncio.to_thread` returns while its thread still writes: to a descriptor that is
    closed next and may then be another file's, or into a directory that is being removed.
    """
    call = functools.partial(function, *args, **kwargs)
    return await finish(asyncio.get_running_loop().run_in_executor(None, call))


async def acquire_in_thread(
    acquire: Callable[P, T], release: Callable[[T], object], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Return what `acquire` returns, called as by `to_the_end`.

    If a cancellation keeps that from the caller, `release` is called with it.
    """
    call = functools.partial(acquire, *args, **kwargs)
    work = asyncio.get_running_loop().run_in_executor(None, call)
    return await finish(work, discard=release)


class _Call(NamedTuple):
    """A call, and the callbacks for its result and its error."""

    function: Callable[[], Any]
    succeed: Callable[[Any], object]
    fail: Callable[[BaseException], object]


class Worker:
    """A thread that its owner's calls use one after the other. The first call starts it.

    A call takes half the overhead of one through the pool behind `to_the_end`. That counts if the
    call itself is short and a start waits for it. The pool is for calls that overlap.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def to_the_end(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in the thread; a cancellation waits for it."""
        loop = asyncio.get_running_loop()
        outcome = Outcome(loop=loop)
        self._put(
            _Call(
                functools.partial(function, *args, **kwargs),
                lambda found: loop.call_soon_threadsafe(outcome.set_result, found),
                lambda exc: loop.call_soon_threadsafe(outcome.set_exception, exc),
            )
        )
        found: T = await outcome
        return found

    def start(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let the thread call `function`, and return at once: for a caller in another thread.

        The call cannot be cancelled: `Future.cancel` refuses.
        """
        future = Future[T]()
        # Without this, a cancelled future would not take the result.
        future.set_running_or_notify_cancel()
        call = functools.partial(function, *args, **kwargs)
        self._put(_Call(call, future.set_result, future.set_exception))
        return future

    def _put(self, call: _Call) -> None:
        if self._thread is None:
            # A daemon thread: a process whose owner did not close it can still end.
            self._thread = threading.Thread(
                target=_work, args=(self._calls,), name=self._name, daemon=True
            )
            self._thread.start()
        self._calls.put(call)

    def close(self) -> None:
        """End the thread when all calls are done. A later call starts a new one."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None


def _work(calls: "queue.SimpleQueue[_Call | None]") -> None:
    while (call := calls.get()) is not None:
        # RuntimeError: the loop has ended meanwhile, and with it the caller.
        try:
            found = call.function()
        except BaseException as exc:
            with suppress(RuntimeError):
                call.fail(exc)
        else:
            with suppress(RuntimeError):
                call.succeed(found)
            del found
        # Keep no reference to this call while waiting for the next.
        del call
