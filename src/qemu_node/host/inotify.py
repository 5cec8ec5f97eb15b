"""Changes of files as the kernel reports them: inotify(7).

Owns the descriptor, its watches and taking its records apart. Does not own which files are watched
nor what a change means.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

_HEADER = struct.Struct("iIII")
"""`struct inotify_event` without its name: wd, mask, cookie, len."""

_READ_BYTES = 64 << 10


class Mask(IntFlag):
    """Kinds of changes (include/uapi/linux/inotify.h)."""

    ATTRIB = 0x4
    """Also: a name of the file is gone, as when another one was renamed over it."""
    CLOSE_WRITE = 0x8
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000
    """The watch has ended: the file is gone."""
    ONLYDIR = 0x1000000
    DONT_FOLLOW = 0x2000000
    ONESHOT = 0x80000000
    """The watch ends with its first change."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change. With `Q_OVERFLOW` changes were lost, and `watch` is -1."""

    watch: int
    mask: int
    name: str
    """In a watched directory, the file's; else empty."""


class Inotify:
    """One descriptor with its watches, read by the event loop that made it."""

    def __init__(self, on_change: Callable[[Change], None]) -> None:
        """Give every change to `on_change`, in order. It must not block.

        Raises:
            OSError: this user has too many of these, or we too many files open.
        """
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")
        self._loop.add_reader(self._fd, self._read)

    def watch(self, path: Path, mask: Mask) -> int:
        """Return the number of a watch on the file that `path` names now.

        A second watch on the same file is the first one, with the new mask.

        Raises:
            OSError: there is no such file, we may not read it, or this user has too many watches.
        """
        encoded = os.fsencode(path)
        return _check(_libc.inotify_add_watch(self._fd, encoded, int(mask)), str(path))

    def unwatch(self, watch: int) -> None:
        """End a watch; harmless if it has ended."""
        _libc.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        """End all watches. Idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        for change in parse_changes(data):
            if self._fd >= 0:
                self._on_change(change)


def parse_changes(data: bytes) -> list[Change]:
    """Return the changes in what was read from the descriptor: whole records, by the kernel."""
    changes = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        watch, mask, _, size = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        name = data[offset : offset + size].partition(b"\0")[0]
        offset += size
        changes.append(Change(watch, mask, os.fsdecode(name)))
    return changes


def _check(result: int, path: str) -> int:
    if result >= 0:
        return result
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), path)
