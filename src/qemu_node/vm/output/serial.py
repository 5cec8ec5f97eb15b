"""The file to which QEMU appends what the guest prints on its serial port, read as a queue.

Owns the place up to which the file has been consumed and the disk space before it. Does not own the
file (the start makes it, QEMU writes it with O_APPEND), how long it may get (`serialbound`) nor
what becomes of the bytes (`console_log`).

QEMU writes whether or not the driver lives, so the file alone must tell what is still to be read. A
consumed byte is overwritten with NUL, which costs no disk access, and whole megabytes of them are
punched out of the file; after a restart the first byte that is not NUL is the first unconsumed one.
Nothing is remembered anywhere else, so there is nothing that could disagree with the file: a driver
killed at any instruction continues where it was, at worst reads some bytes twice, and loses none.
The NULs that a guest prints itself may get lost this way; the log drops them anyway.
"""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from qemu_node.host.files.atomic import host_error
from qemu_node.host.files.holes import punch_hole, seek_data
from qemu_node.units import KIB, MIB
from qemu_node.vm.output.serialbound import SerialBound

log = logging.getLogger(__name__)

_PUNCH_BYTES = 1 * MIB
"""Consumed bytes that may stay on disk. Punching writes dirty pages of its range back first (ext4
before Linux 6.13), so it is done rarely and not for each line."""

_ERASE_MAX_BYTES = 16 * MIB
"""What is overwritten at most in one go."""

_SCAN_BYTES = 256 * KIB
_SCAN_MAX_BYTES = 16 * MIB
"""How much of a run of NULs one call looks at: other logs are waiting."""


class SerialLog:
    """The unconsumed bytes of one serial log. One reader at a time; the VM's lock sees to that.

    Keeps at most 1 MiB of consumed bytes on disk. The file's apparent size goes on growing. Where
    holes cannot be punched (a file system other than ext4, XFS, Btrfs, tmpfs), the file is emptied
    when all of it has been consumed; what QEMU appends in the microseconds between check and cut is
    lost there. So is what waits in it when more than 16 MiB are passed over at once, which a guest
    that has taken over its QEMU can make a terabyte of.

    Nothing stays open between two calls: a node has two logs for each of its VMs, and most are
    silent.
    """

    def __init__(self, path: Path, bound: SerialBound | None = None) -> None:
        """Open the log, whose writer `bound` stops at some distance from here.

        Raises:
            HostError: there is no such file, it is a link, or it may not be read and written.
        """
        self.path = path
        try:
            with self._open():
                pass
        except OSError as exc:
            raise host_error("open serial log", path, exc) from exc
        self._position = 0
        self._punched_to = 0
        self._is_start_known = False
        self._can_punch = True
        self._bound = bound
        self._has_begun = False

    @contextmanager
    def _open(self) -> Generator[int]:
        fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)

    def pending_bytes(self) -> int:
        """Return how many bytes wait to be read; one lstat(2) where there are none.

        Raises:
            OSError: the file system failed.
        """
        size = self.path.lstat().st_size
        if self._bound is not None and not self._has_begun:
            self._has_begun = True
            self._bound.begin(self.path, size)
        if size < self._position:
            # Only a QEMU that its guest has taken over can have cut it: begin again.
            self._position = self._punched_to = 0
            self._is_start_known = False
        if size == self._position:
            return 0
        if not self._is_start_known:
            with self._open() as fd:
                self._find_start(fd)
        return size - self._position if self._is_start_known else 0

    def read_new(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes` from the first unconsumed byte on; they stay until consumed.

        Raises:
            OSError: the file system failed.
        """
        if not self.pending_bytes():
            return b""
        with self._open() as fd:
            return os.pread(fd, max_bytes, self._position)

    def _find_start(self, fd: int) -> None:
        """Move to the first byte that is not NUL; give up for this time after `_SCAN_MAX_BYTES`."""
        for _ in range(_SCAN_MAX_BYTES // _SCAN_BYTES):
            position = seek_data(fd, self._position)
            if position is None:
                # Only a hole is left. Its end is where QEMU's next byte goes.
                self._position = os.fstat(fd).st_size
                return
            self._position = position
            chunk = os.pread(fd, _SCAN_BYTES, position)
            if not chunk:
                return
            self._position += len(chunk) - len(chunk.lstrip(b"\0"))
            if self._position < position + len(chunk):
                self._is_start_known = True
                return

    def consume(self, count: int) -> None:
        """Forget the next `count` bytes, read or not: their content has reached its destination.

        A failure to erase them is logged, not raised: the same bytes would be read again after a
        restart, which is no reason to stop now.
        """
        begin, self._position = self._position, self._position + count
        self._erase(begin, count)
        if self._bound is not None:
            self._bound.move(self._position)

    def _erase(self, begin: int, count: int) -> None:
        try:
            with self._open() as fd:
                if self._punch(fd):
                    return
                if count > _ERASE_MAX_BYTES:
                    self._empty(fd)
                    return
                self._overwrite(fd, begin, self._position)
                self._cut(fd)
        except OSError as exc:
            log.warning(
                "consumed serial output could not be erased",
                extra={"path": str(self.path), "error": str(exc)},
            )

    def _punch(self, fd: int) -> bool:
        """Free all consumed bytes if there are enough of them; tell whether it was done."""
        length = self._position - self._punched_to
        if not self._can_punch or length < _PUNCH_BYTES:
            return False
        self._can_punch = punch_hole(fd, self._punched_to, length)
        if self._can_punch:
            self._punched_to = self._position
        else:
            log.warning(
                "no holes on this file system; the serial log is cut each time it is read up",
                extra={"path": str(self.path)},
            )
        return self._can_punch

    def _empty(self, fd: int) -> None:
        """Drop the whole file, where erasing a part of it would write for minutes."""
        log.warning(
            "no holes on this file system; the serial log was emptied, with what waited in it",
            extra={"path": str(self.path), "bytes": os.fstat(fd).st_size - self._position},
        )
        os.ftruncate(fd, 0)
        self._position = 0

    def _overwrite(self, fd: int, begin: int, end: int) -> None:
        while begin < end:
            begin += os.pwrite(fd, bytes(min(end - begin, _SCAN_BYTES)), begin)

    def _cut(self, fd: int) -> None:
        """Empty a file that has been read to its end, where no holes can be punched."""
        if self._can_punch or self._position < _PUNCH_BYTES:
            return
        if os.fstat(fd).st_size == self._position:
            os.ftruncate(fd, 0)
            self._position = 0
