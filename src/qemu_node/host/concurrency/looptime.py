"""Turns of the event loop: they are kept short, and one that others wait for too long is logged.

Owns the measure and the bound of what is taken up in one turn. The measure costs two readings of
the clock for each turn and wakes nobody. asyncio's debug mode (`PYTHONASYNCIODEBUG=1`) logs what
kept the loop busy.
"""

import asyncio
import logging
import selectors
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

BUSY_S = 0.1
"""What one turn of the loop may take before it is logged."""

BUSY_EVENT = "event loop was busy"

EVENTS_MAX = 16
"""How many descriptors are served in one turn. Where 300 VMs end at once, what each of them needs
would make one long turn otherwise, and the next one again."""


class TimedSelector(selectors.DefaultSelector):
    """Waits for descriptors, a few at a time, and knows how long nobody has waited for them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._turn_began: float | None = None
        self._first = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Do what every selector does, for at most `EVENTS_MAX` descriptors, all in their turn."""
        if self._turn_began is not None:
            busy_s = self._clock() - self._turn_began
            if busy_s > BUSY_S:
                log.warning(BUSY_EVENT, extra={"ms": round(busy_s * 1000)})
        ready = super().select(timeout)
        if len(ready) > EVENTS_MAX:
            # The others stay ready (level-triggered, man 7 epoll). Not always the first ones: who
            # always has something to say must not keep the others from being heard.
            self._first = (self._first + EVENTS_MAX) % len(ready)
            ready = [*ready[self._first :], *ready[: self._first]][:EVENTS_MAX]
        self._turn_began = self._clock()
        return ready


def timed_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop whose long turns are logged."""
    return asyncio.SelectorEventLoop(TimedSelector())
