"""What the product may not do on the event loop's thread: wait for a disk.

Intercepts the calls instead of measuring time, so that a busy machine changes nothing: removing,
syncing, moving much, sleeping. Calls by a test itself, and calls in a thread, do not count.
"""

import asyncio
import inspect
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import qemu_node

MUCH_BYTES = 1 << 20
"""More than this is not moved at once on the loop."""

_PRODUCT = str(Path(qemu_node.__file__).parent)
_TESTS = str(Path(__file__).parent.parent)

_NEVER = (
    *((os, name) for name in ("unlink", "remove", "rmdir", "fsync", "fdatasync", "sync")),
    *((os, name) for name in ("posix_fallocate", "sendfile", "copy_file_range")),
    (shutil, "copyfileobj"),
    (time, "sleep"),
)
_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_NOT_MUCH = tuple((os, name) for name in ("read", "pread", "write", "pwrite"))


@contextmanager
def guarded_loop() -> Iterator[list[str]]:
    """Collect what the product calls on a loop's thread inside the block, each with its stack."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for module, name in _NEVER:
            patch.setattr(module, name, _watched(getattr(module, name), found, lambda _: True))
        for module, name in _NOT_MUCH:
            patch.setattr(module, name, _watched(getattr(module, name), found, _is_much))
        yield found


def _watched(
    function: Callable[..., Any], found: list[str], counts: Callable[[Any], bool]
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if asyncio._get_running_loop() is not None and counts(result) and _is_of_product():
            stack = traceback.extract_stack(sys._getframe(1))
            ours = [frame for frame in stack if frame.filename.startswith(_PRODUCT)]
            lines = "\n".join(f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in ours)
            found.append(f"{function.__name__}{args[:1]} on the event loop:\n{lines}")
        return result

    return call


def _is_much(moved: Any) -> bool:
    return (moved if isinstance(moved, int) else len(moved)) > MUCH_BYTES


def _is_of_product() -> bool:
    """Tell whether a coroutine of the product made this call, and not a test through a function."""
    frame: FrameType | None = sys._getframe(2)
    outermost: FrameType | None = None
    while frame is not None and not frame.f_code.co_filename.startswith(_TESTS):
        if frame.f_code.co_filename.startswith(_PRODUCT):
            outermost = frame
        frame = frame.f_back
    if outermost is None:
        return False
    # Without a test in the stack the loop itself has called the product.
    return frame is None or bool(outermost.f_code.co_flags & _COROUTINE)
