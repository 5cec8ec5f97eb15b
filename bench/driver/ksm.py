"""KSM switched on for the length of a block, with its knobs put back afterwards.

Owns the kernel's settings while a bench needs equal pages merged. Does not own what is measured.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.rig.agent import until
from bench.rig.node import CannotRunError

_KNOBS = Path("/sys/kernel/mm/ksm")
# Quick rather than cheap: only the state afterwards is measured.
_BURST = {"sleep_millisecs": "5", "pages_to_scan": "5000", "run": "1"}
# The second scan that finds a page unchanged merges it (Documentation/admin-guide/mm/ksm.rst).
_SCANS = 3


@asynccontextmanager
async def ksm_merged() -> AsyncGenerator[None]:
    """Run the block after KSM has merged what can be merged; then restore the node's settings.

    Raises:
        CannotRunError: this kernel has no KSM, we may not switch it, or it makes no progress.
    """
    if not os.access(_KNOBS / "run", os.W_OK):
        raise CannotRunError("KSM cannot be switched on here; that needs root")
    before = {knob: (_KNOBS / knob).read_text() for knob in _BURST}
    try:
        for knob, value in _BURST.items():
            (_KNOBS / knob).write_text(value)
        await _scans(_SCANS)
        yield
    finally:
        for knob, value in before.items():
            (_KNOBS / knob).write_text(value)


async def _scans(count: int) -> None:
    """Return once KSM has gone through all memory `count` times more."""
    done = await _full_scans() + count
    try:
        _ = await until(_full_scans, lambda scans: scans >= done, f"{count} scans of KSM")
    except TimeoutError as exc:
        raise CannotRunError(str(exc)) from exc


async def _full_scans() -> int:
    return int((_KNOBS / "full_scans").read_text())
