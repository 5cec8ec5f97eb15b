"""Background tasks: the one place that starts an asyncio task outside a TaskGroup.

Owns tasks that live as long as an object, not as long as a block: a reader of a connection, a
download that outlives the start that asked for it. Does not own what they do.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class TaskOwner:
    """Keeps references to its tasks, logs their errors, and cancels them when it is closed.

    An exception of one task does not affect the others. A caller that needs the result awaits the
    task. The exception is logged with its traceback, even if a caller awaits the task.
    """

    def __init__(self, name: str = "background") -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    def start(self, coro: Coroutine[Any, Any, T], *, name: str) -> "asyncio.Task[T]":
        """Start `coro` as a task of this owner; the log calls it `name`.

        Raises:
            RuntimeError: the owner is closed; `coro` was not started.
        """
        if self._is_closed:
            coro.close()
            raise RuntimeError(f"task {name!r} started after its owner {self._name!r} was closed")
        task = asyncio.create_task(coro, name=name)  # noqa: TID251 - the one owner of tasks
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error(
                "background task failed",
                extra={"task": task.get_name(), "owner": self._name},
                exc_info=error,
            )

    def __len__(self) -> int:
        """Return how many tasks run."""
        return len(self._tasks)

    async def aclose(self) -> None:
        """Cancel all tasks and wait for them. If one of them calls this, that one goes on."""
        self._is_closed = True
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()
