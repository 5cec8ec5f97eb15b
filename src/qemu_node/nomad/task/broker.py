"""The broker of task events: from the driver's code to Nomad's TaskEvents streams.

Owns delivering each event to every listener. While nobody listens, as between two agents, events
wait in a short queue. Does not own what is told.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from qemu_node.nomad.proto import driver_pb2

_BACKLOG = 100
_MESSAGE_MAX_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskName:
    """Which task it is: what is kept of a TaskConfig, whose message takes 10 KiB and more."""

    id: str
    alloc_id: str
    name: str

    @classmethod
    def of(cls, config: driver_pb2.TaskConfig) -> Self:
        """Return the name of the task with `config`."""
        return cls(id=config.id, alloc_id=config.alloc_id, name=config.name)


class EventBroker:
    """Takes events from the driver and delivers them to Nomad's TaskEvents streams."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[driver_pb2.DriverTaskEvent]] = set()
        self._backlog: deque[driver_pb2.DriverTaskEvent] = deque(maxlen=_BACKLOG)

    def tell(
        self,
        task: TaskName,
        message: str,
        annotations: dict[str, str] | None = None,
    ) -> None:
        """Publish an event of `task`. Nomad keeps its last ten; a start makes three or four."""
        event = driver_pb2.DriverTaskEvent(
            task_id=task.id,
            alloc_id=task.alloc_id,
            task_name=task.name,
            message=" ".join(message.split())[:_MESSAGE_MAX_CHARS],
            annotations=annotations or {},
        )
        event.timestamp.GetCurrentTime()
        if not self._listeners:
            self._backlog.append(event)
        for listener in self._listeners:
            # A listener that does not read loses its oldest event, so that the queue stays
            # bounded.
            if listener.full():
                listener.get_nowait()
            listener.put_nowait(event)

    async def listen(self) -> AsyncIterator[driver_pb2.DriverTaskEvent]:
        """Yield the events that waited, then each new one, without end."""
        queue: asyncio.Queue[driver_pb2.DriverTaskEvent] = asyncio.Queue(maxsize=10 * _BACKLOG)
        while self._backlog:
            queue.put_nowait(self._backlog.popleft())
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)
