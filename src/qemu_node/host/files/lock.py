"""Locks between processes, on files and directories.

Owns flock(2), waiting for it, and seeing whether others hold a lock. Does not own what a lock
guards.
"""

import asyncio
import contextlib
import fcntl
import functools
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Self

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import host_error

_LOCKS = Path("/proc/locks")

_LOCK_POLL_S = 0.02

_LOCK_POLL_MAX_S = 0.25


class LockBusyError(HostError):
    """Another holder did not release the lock in time; nothing was changed."""


def try_lock(path: Path, flags: int) -> int | None:
    """Return a descriptor that holds flock(2) on what `path` names; None if it is locked.

    Whoever removes a locked file leaves no lock on its successor: the one that is locked is the one
    that the path names now.

    Args:
        path: A file or a directory, no link.
        flags: How it is opened, for `open(2)`. A file that O_CREAT makes has mode 0600.

    Raises:
        OSError: as `open(2)`.
    """
    while True:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.lstat()):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


class FileLock:
    """A lock between processes, and between tasks of one: flock(2) on a file of mode 0600.

    It is held as long as the descriptor is open, so the kernel releases it when the holder dies.
    The file stays when the lock is released. If the file is removed meanwhile, the next holder
    makes a new one; nobody holds the old one without knowing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; False if it is held, also if by this object.

        Raises:
            HostError: the lock file cannot be created or opened.
        """
        if self._fd is None:
            try:
                self._fd = try_lock(self.path, os.O_RDWR | os.O_CREAT)
            except OSError as exc:
                raise host_error("lock", self.path, exc) from exc
            return self._fd is not None
        return False

    async def acquire(self, timeout_s: float) -> None:
        """Take the lock; wait at most `timeout_s` for it. Cancelling is harmless.

        Raises:
            LockBusyError: it was held all the time.
            HostError: the lock file cannot be created or opened.
        """
        for pause_s in self._attempts(timeout_s):
            await asyncio.sleep(pause_s)

    @contextlib.contextmanager
    def hold_blocking(self, timeout_s: float) -> Generator[None]:
        """Hold the lock inside the block; wait for it as `acquire` does, but in a thread."""
        for pause_s in self._attempts(timeout_s):
            time.sleep(pause_s)
        try:
            yield
        finally:
            self.release()

    def _attempts(self, timeout_s: float) -> Iterator[float]:
        """Try until we hold the lock; yield how long to sleep before each further attempt.

        It polls because a thread that is blocked in flock() can neither be cancelled nor given a
        deadline.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = _LOCK_POLL_S
        while not self.try_acquire():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise LockBusyError(f"{self.path} was locked for {timeout_s:g} s")
            yield min(pause_s, left_s)
            pause_s = min(pause_s * 1.5, _LOCK_POLL_MAX_S)

    def release(self) -> None:
        """Release the lock. Harmless if it is not held."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __enter__(self) -> Self:
        if not self.try_acquire():
            raise LockBusyError(f"{self.path} is locked by another process")
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


class HeldLocks(frozenset[tuple[int, int, int]]):
    """Major, minor and inode of files that are held: looked up for hundreds of VMs at a time."""

    @functools.cached_property
    def inodes(self) -> frozenset[int]:
        """The inodes alone."""
        return frozenset(inode for _, _, inode in self)


def parse_locks(text: str) -> HeldLocks:
    """Return major, minor and inode of every file in /proc/locks that is held by a flock(2).

    Lines of waiters carry an arrow before the kind (man 5 proc).
    """
    held = set()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 6 or fields[1] != "FLOCK":
            continue
        with contextlib.suppress(ValueError):
            major, minor, inode = fields[5].split(":")
            held.add((int(major, 16), int(minor, 16), int(inode)))
    return HeldLocks(held)


def held_locks() -> HeldLocks:
    """Return the locks that are held now. Reading disturbs no driver; trying a lock could."""
    try:
        return parse_locks(_LOCKS.read_text())
    except OSError:
        return HeldLocks()


def is_locked(path: Path, locks: HeldLocks) -> bool | None:
    """Tell whether someone holds the lock on `path`; None where we may not look."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return None
    major, minor = os.major(info.st_dev), os.minor(info.st_dev)
    if major == 0:
        # A virtual device, and btrfs shows another one in stat(2) than in /proc/locks.
        return info.st_ino in locks.inodes
    return (major, minor, info.st_ino) in locks
