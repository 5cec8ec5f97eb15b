"""A task's log files, as Nomad's log API reads them.

Owns their rotation and removal. Does not own where they are (`vm.output.logfiles`), what is
written, nor how fast.

The tasks of the allocation can write to the directory, so a name that is there and is not a plain
file is skipped. No other file is made there: if a file has the same prefix but no number, Nomad
refuses to show any.

Nothing stays open between two writes, because a node has two logs for each VM, and most are
silent.
"""

import contextlib
import errno
import logging
import os
from pathlib import Path
from typing import Literal

from qemu_node.host.files.atomic import host_error
from qemu_node.host.files.beneath import is_plain_file, open_beneath
from qemu_node.vm.output.logfiles import list_log_numbers, log_prefix, open_logs_dir

log = logging.getLogger(__name__)

_MAX_PASSED_OVER = 8
"""A write fails if so many names in a row belong to something else."""

_MODE = 0o644

# What open(2) answers for a link, a directory, a FIFO without a reader, or a socket.
_NOT_A_FILE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})


class TaskLog:
    """One stream of one task. Writing never fails: what the disk refuses is counted.

    At most `max_files` files of at most `max_file_bytes`. A line that fits one file is not split.
    The newest file of an earlier driver is continued.
    """

    def __init__(
        self,
        logs_dir: Path,
        task_name: str,
        stream: Literal["stdout", "stderr"],
        max_files: int,
        max_file_bytes: int,
    ) -> None:
        """Open the log and make its first file: Nomad answers 404 for a log without a file.

        Args:
            logs_dir: `<alloc_dir>/alloc/logs`. Neither of its last two components may be a link.
            task_name: The task's name.
            stream: The stream.
            max_files: How many files are kept; the oldest are removed.
            max_file_bytes: The size at which the next file begins.

        Raises:
            HostError: the directory cannot be opened.
        """
        self.dropped_bytes = 0
        """Bytes that the disk refused since this object was made."""
        self._unreported_bytes = 0
        self._prefix = log_prefix(task_name, stream)
        self._logs_dir = logs_dir
        self._max_files = max_files
        self._max_file_bytes = max_file_bytes
        self._is_closed = False
        try:
            with open_logs_dir(self._logs_dir) as dir_fd:
                self._indexes = list_log_numbers(dir_fd, self._prefix)
                self._make_first(dir_fd)
        except OSError as exc:
            raise host_error("open log directory", logs_dir, exc) from exc

    def _make_first(self, dir_fd: int) -> None:
        try:
            os.close(self._open(dir_fd, self._newest))
        except OSError as exc:
            self._report(exc)

    @property
    def _newest(self) -> int:
        return self._indexes[-1] if self._indexes else 0

    @staticmethod
    def _open_to_readers(fd: int) -> None:
        """Give a file that we have just made the mode of Nomad's files, whatever the umask."""
        info = os.fstat(fd)
        if info.st_size == 0 and info.st_uid == os.geteuid():
            os.fchmod(fd, _MODE)

    def _open(self, dir_fd: int, first: int) -> int:
        """Open file `first`, or the next one that is, or can be made, a plain file with room."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        for index in range(first, first + _MAX_PASSED_OVER):
            try:
                fd = open_beneath(dir_fd, f"{self._prefix}{index}", flags, mode=_MODE)
            except OSError as exc:
                if exc.errno in _NOT_A_FILE:
                    continue
                raise
            if is_plain_file(fd) and os.fstat(fd).st_size < self._max_file_bytes:
                self._open_to_readers(fd)
                self._begin(dir_fd, index)
                return fd
            os.close(fd)
        raise OSError(errno.EEXIST, f"{self._prefix}{first} and the next are not plain files")

    def _begin(self, dir_fd: int, index: int) -> None:
        """Remember that `index` is the newest file; remove the oldest beyond `max_files`."""
        self._indexes = [*(older for older in self._indexes if older < index), index]
        for old in self._indexes[: -self._max_files]:
            # It may be gone already, or a task may have put a directory there.
            with contextlib.suppress(OSError):
                os.unlink(f"{self._prefix}{old}", dir_fd=dir_fd)
        del self._indexes[: -self._max_files]

    def write(self, data: bytes) -> None:
        """Append `data`. Never raises: what the disk refuses is dropped and counted."""
        if self._unreported_bytes:
            notice = b"[%d bytes lost: the log could not be written]\n" % self._unreported_bytes
            if self._append(notice) < len(notice):
                self._lose(len(data))
                return
            self._unreported_bytes = 0
        self._lose(len(data) - self._append(data))

    def _lose(self, count: int) -> None:
        self.dropped_bytes += count
        self._unreported_bytes += count

    def _append(self, data: bytes) -> int:
        """Return how many bytes of `data` were written; fewer than all if the disk refused."""
        if self._is_closed:
            return 0
        done = 0
        try:
            with open_logs_dir(self._logs_dir) as dir_fd:
                while done < len(data):
                    done += self._append_some(dir_fd, data[done:])
        except OSError as exc:
            self._report(exc)
        return done

    def _append_some(self, dir_fd: int, data: bytes) -> int:
        """Append to the newest file, or a new one if not even a line fits; return how much."""
        fd = self._open(dir_fd, self._newest)
        try:
            size = os.fstat(fd).st_size
            end = self._fitting(data, size)
            if end == 0 and size > 0:
                os.close(fd)
                fd = -1
                fd = self._open(dir_fd, self._newest + 1)
                size = os.fstat(fd).st_size
                end = self._fitting(data, size)
            # A line that is longer than a file is split at the end of the file.
            return os.write(fd, data[: end or self._max_file_bytes - size])
        finally:
            if fd >= 0:
                os.close(fd)

    def _fitting(self, data: bytes, size: int) -> int:
        """Return how many bytes of `data`, in whole lines, fit a file that has `size` bytes."""
        room = self._max_file_bytes - size
        return len(data) if len(data) <= room else data.rfind(b"\n", 0, room) + 1

    def _report(self, exc: OSError) -> None:
        """Log the error in the driver's log, once for each time that writing stops."""
        if not self._unreported_bytes:
            path = self._logs_dir / f"{self._prefix}*"
            fields = {"path": str(path), "error": str(exc)}
            log.warning("task log could not be written", extra=fields)

    def close(self) -> None:
        """Close the log. Idempotent. What is written afterwards counts as dropped."""
        self._is_closed = True
