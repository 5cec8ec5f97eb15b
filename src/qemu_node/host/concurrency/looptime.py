"""How long one turn of the event loop takes. A turn that is too long is logged.

Owns the measurement: two readings of the clock for each turn of the loop. asyncio's debug mode
(`PYTHONASYNCIODEBUG=1`) logs what kept the loop busy.
"""

import asyncio
import logging
import selectors
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

BUSY_S = 0.1
"""A turn of the loop that takes longer is logged."""

BUSY_EVENT = "event loop was busy"


class TimedSelector(selectors.DefaultSelector):
    """A selector that measures the time between two calls of `select`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._turn_began: float | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for descriptors; first log the turn that ends here if it was long."""
        if self._turn_began is not None:
            busy_s = self._clock() - self._turn_began
            if busy_s > BUSY_S:
                log.warning(BUSY_EVENT, extra={"ms": round(busy_s * 1000)})
        ready = super().select(timeout)
        self._turn_began = self._clock()
        return ready


def timed_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop whose long turns are logged."""
    return asyncio.SelectorEventLoop(TimedSelector())
