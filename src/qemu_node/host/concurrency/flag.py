"""An event that costs little while few tasks wait for it.

It does what `asyncio.Event` does. That one has a deque, which takes 624 bytes even if nobody waits,
and a driver has three events for each of its VMs.
"""

import asyncio


class Flag:
    """Wakes its waiters once it is set. Of one event loop, and of its thread."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] | None = None

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake all waiters. Idempotent."""
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Have later calls of `wait` wait again."""
        self._is_set = False

    async def wait(self) -> None:
        """Return once it is set. Cancelling is harmless."""
        if self._is_set:
            return
        waiter = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._forget(waiter)

    def _forget(self, waiter: "asyncio.Future[None]") -> None:
        # `set` has taken the list; a cancellation has not.
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)
