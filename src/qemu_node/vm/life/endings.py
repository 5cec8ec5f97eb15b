"""Turns for QEMUs that are ended: a few at a time, however many stops there are.

Owns how many and for how long. Does not own how a QEMU is ended (`stopladder`).

Its end costs a QEMU 20 ms of CPU and more, most of it in the kernel, to give back its memory. Where
hundreds have that to do at once, the driver waits for a CPU among them, and so does every guest
that goes on. All are gone no later than without turns, for the CPUs are busy all the time.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator

_AT_ONCE_MIN = 4
_AT_ONCE_PER_CPU = 2

TURN_MAX_S = 2.0
"""How long a QEMU that does not end keeps its turn: one that hangs holds up no others."""


class Endings:
    """Gives turns. One for all VMs of this process."""

    def __init__(self, at_once: int | None = None, turn_max_s: float = TURN_MAX_S) -> None:
        """Let `at_once` QEMUs end at the same time; by default four and two for each CPU."""
        cpus = len(os.sched_getaffinity(0))
        self._turns = asyncio.Semaphore(at_once or _AT_ONCE_MIN + _AT_ONCE_PER_CPU * cpus)
        self._turn_max_s = turn_max_s

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait for a turn; it ends with the block, or when it has taken too long."""
        await self._turns.acquire()
        turn = _Turn(self._turns)
        timer = asyncio.get_running_loop().call_later(self._turn_max_s, turn.end)
        try:
            yield
        finally:
            timer.cancel()
            turn.end()


class _Turn:
    """A turn that ends once, by its holder or by its timer."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns: asyncio.Semaphore | None = turns

    def end(self) -> None:
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.release()
