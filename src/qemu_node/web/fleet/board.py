"""The present state of all VMs, and telling whoever follows it.

Owns how changes come together: a slow reader gets the newest state, never a backlog. Does not own
what is known of a VM (`fleet`).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from qemu_node.host.concurrency.flag import Flag
from qemu_node.web.fleet.model import Delta, VMView, difference, is_of_figures

_COALESCE_S = 0.25
"""Changes within this time are told together."""
_FIGURES_S = 2.0
"""The same for changes of figures alone, of which there are many."""


class Board:
    """All VMs by vm_id, without their ages."""

    def __init__(self, on_look: Callable[[], object]) -> None:
        """Call `on_look` when somebody begins to follow, and when somebody leaves."""
        self.views: dict[str, VMView] = {}
        self._followers: set[Flag] = set()
        self._waking: asyncio.TimerHandle | None = None
        self._on_look = on_look

    @property
    def is_looked_at(self) -> bool:
        """Whether somebody follows."""
        return bool(self._followers)

    def put(self, view: VMView) -> None:
        """Have a VM as it is now."""
        before = self.views.get(view.vm_id)
        if before == view:
            return
        self.views[view.vm_id] = view
        if before is None or not is_of_figures(before, view):
            self._wake()
        elif self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(_FIGURES_S, self._wake)

    def drop(self, vm_id: str) -> None:
        """Have a VM no more."""
        if self.views.pop(vm_id, None) is not None:
            self._wake()

    def close(self) -> None:
        """Tell nobody any more."""
        if self._waking is not None:
            self._waking.cancel()

    async def changes(self, idle_s: float | None) -> AsyncGenerator[Mapping[str, VMView]]:
        """Yield all VMs, at first and whenever one has changed, or nothing has for `idle_s`."""
        flag = Flag()
        flag.set()
        self._followers.add(flag)
        self._on_look()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(idle_s):
                        await flag.wait()
                flag.clear()
                yield dict(self.views)
                await asyncio.sleep(_COALESCE_S)
        finally:
            self._followers.discard(flag)
            self._on_look()

    async def deltas(self) -> AsyncIterator[Delta]:
        """Yield what has changed since the last one; the first one has all VMs."""
        before: Mapping[str, VMView] = {}
        async with contextlib.aclosing(self.changes(None)) as states:
            async for state in states:
                delta = difference(before, state)
                before = state
                if delta.changed or delta.gone:
                    yield delta

    def _wake(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        for flag in self._followers:
            flag.set()
