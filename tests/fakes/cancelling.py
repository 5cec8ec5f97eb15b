"""Cancels a task at chosen awaits, for tests that try each of them."""

import asyncio
from collections.abc import Coroutine, Generator, Sequence
from enum import Enum, auto
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Moment(Enum):
    """When at an await."""

    WAITING = auto()
    """While what is waited for is not there, and again in the next turn of the loop."""
    READY = auto()
    """When it is there and the task has not gone on yet: its result is lost."""


class CancelledAt(Coroutine[Any, Any, T]):
    """A coroutine whose task is cancelled at each of its awaits that `at` counts, from 1.

    Every suspension of the task counts, those after an earlier cancellation too.
    """

    def __init__(
        self, coro: Coroutine[Any, Any, T], at: Sequence[int], moment: Moment = Moment.WAITING
    ) -> None:
        self._coro = coro
        self._at = frozenset(at)
        self._moment = moment
        self.awaits = 0
        """How often the task was suspended so far."""

    def send(self, value: Any, /) -> Any:
        return self._suspended(self._coro.send(value))

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> Any:
        return self._suspended(self._coro.throw(typ))

    def _suspended(self, waited_for: Any) -> Any:
        self.awaits += 1
        if self.awaits in self._at:
            task = asyncio.current_task()
            assert task is not None
            if waited_for is not None and self._moment is Moment.READY:
                # Before the task's own callback, which is added when this has returned.
                waited_for.add_done_callback(lambda _: task.cancel())
            else:
                asyncio.get_running_loop().call_soon(_cancel_twice, task)
        return waited_for

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, None, T]:
        raise NotImplementedError("it is for a task")


def _cancel_twice(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    asyncio.get_running_loop().call_soon(task.cancel)
