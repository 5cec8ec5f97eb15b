"""Loops that serve many VMs: after an error they try again, and report it.

Owns the rule that no error ends such a loop: the error is logged, the loop waits longer each time,
and the fingerprint says what does not work. Does not own what the loops do. A loop that serves one
VM ends with the VM (`vm.life.machine`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

from qemu_node.errors import NodeError

log = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSE_MIN_S = 0.5
_PAUSE_MAX_S = 300.0


class Troubles:
    """Which loops of this process fail at present, for the fingerprint."""

    def __init__(self) -> None:
        self._by_name: dict[str, str] = {}

    def lines(self) -> list[str]:
        """Return one line for each loop that fails, with its last error."""
        return [f"{name} does not work: {text}" for name, text in sorted(self._by_name.items())]

    def has(self, name: str) -> bool:
        """Tell whether the last attempt of `name` failed."""
        return name in self._by_name

    def note(self, name: str, error: Exception | None) -> None:
        """Record the result of `name`. An error that repeats is logged once."""
        if error is None:
            if self._by_name.pop(name, None) is not None:
                log.info("works again", extra={"loop": name})
            return
        is_known = isinstance(error, NodeError | OSError)
        text = error.explain() if isinstance(error, NodeError) else str(error)
        text = text if is_known else f"{type(error).__name__}: {text}"
        if self._by_name.get(name) != text:
            fields = {"loop": name, "error": text}
            if is_known:
                log.warning("does not work; tried again", extra=fields)
            else:
                log.error("does not work; tried again", extra=fields, exc_info=error)
        self._by_name[name] = text


async def attempt(work: Callable[[], Awaitable[T]], *, name: str, troubles: Troubles) -> T | None:
    """Do `work` and return its result; None if it fails. The result is noted for `name`."""
    try:
        found = await work()
    except Exception as exc:  # the rule of this module
        troubles.note(name, exc)
        return None
    troubles.note(name, None)
    return found


async def repeat(
    work: Callable[[], Awaitable[object]],
    *,
    name: str,
    interval_s: float,
    troubles: Troubles,
    first_s: float = 0.0,
) -> NoReturn:
    """Repeat `work` until cancelled, with a pause of `interval_s` in between.

    After an error the pause doubles, up to five minutes; after a success it is `interval_s` again.

    Args:
        work: What is done.
        name: The name of the work in the log and the fingerprint: the subject of a sentence.
        interval_s: The pause.
        troubles: Takes the errors.
        first_s: The pause before the first time.
    """
    if first_s:
        await asyncio.sleep(first_s)
    pause_s = interval_s
    while True:
        await attempt(work, name=name, troubles=troubles)
        is_failing = troubles.has(name)
        pause_s = (
            max(interval_s, min(2 * max(pause_s, _PAUSE_MIN_S), _PAUSE_MAX_S))
            if is_failing
            else interval_s
        )
        await asyncio.sleep(pause_s)
