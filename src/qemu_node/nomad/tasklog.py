"""A task's log files, as Nomad's log API reads them.

Owns `<task>.<stream>.<N>` in `<alloc_dir>/alloc/logs`, the highest N being the newest
(client/fs_endpoint.go, logIndexes), their rotation and their removal. Does not own what is written,
nor its rate.

The directory has mode 0777 and the tasks of the allocation write to it, so nothing in it is
trusted: it is opened once, every file relative to it and without following links, and a name that
is taken by anything but a plain file is passed over. No other file is ever made beside them: one
with the same beginning whose end is no number makes Nomad refuse to show any.
"""

import contextlib
import errno
import logging
import os
import re
from pathlib import Path
from typing import Literal

from qemu_node.host.files import host_error, is_plain_file, open_beneath

log = logging.getLogger(__name__)

_MAX_PASSED_OVER = 8
"""How many names in a row may be taken by something else before a write is given up."""

# What opening a link, a directory, a FIFO without a reader or a socket answers.
_NOT_A_FILE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})


class TaskLog:
    """One stream of one task. Writing never fails: what the disk does not take is counted.

    At most `max_files` files of at most `max_file_bytes`; a line is not split over two files where
    it fits one. A log of an earlier driver is continued in its newest file.
    """

    def __init__(
        self,
        logs_dir: Path,
        task_name: str,
        stream: Literal["stdout", "stderr"],
        max_files: int,
        max_file_bytes: int,
    ) -> None:
        """Open the log; there is a file from here on, as Nomad answers 404 for a log without one.

        Args:
            logs_dir: `<alloc_dir>/alloc/logs`. Neither of its last two components may be a link.
            task_name: The task, by any name that Nomad allows.
            stream: Which of its streams.
            max_files: How many files are kept, the newest.
            max_file_bytes: When the next one begins.

        Raises:
            HostError: the directory cannot be opened.
        """
        self.dropped_bytes = 0
        """What the disk did not take since this object was made."""
        self._unreported_bytes = 0
        self._prefix = f"{task_name}.{stream}."
        self._path = logs_dir / f"{self._prefix}*"
        self._max_files = max_files
        self._max_file_bytes = max_file_bytes
        self._fd = -1
        try:
            self._dir_fd = _open_logs_dir(logs_dir)
            self._indexes = self._list_indexes()
        except OSError as exc:
            raise host_error("open log directory", logs_dir, exc) from exc
        try:
            self._open(self._indexes[-1] if self._indexes else 0)
        except OSError as exc:
            self._report(exc)

    def _list_indexes(self) -> list[int]:
        """Return the N of all files of this stream, in order."""
        # 18 digits fit Nomad's int; a longer number was put there by somebody else.
        pattern = re.compile(re.escape(self._prefix) + r"(0|[1-9][0-9]{0,17})")
        with os.scandir(self._dir_fd) as entries:
            matches = [pattern.fullmatch(entry.name) for entry in entries]
        return sorted(int(match[1]) for match in matches if match is not None)

    def _open(self, first: int) -> None:
        """Go on with file `first`, or the next that is or becomes a plain file with room in it."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        for index in range(first, first + _MAX_PASSED_OVER):
            try:
                fd = open_beneath(self._dir_fd, f"{self._prefix}{index}", flags, mode=0o644)
            except OSError as exc:
                if exc.errno in _NOT_A_FILE:
                    continue
                raise
            if is_plain_file(fd) and os.fstat(fd).st_size < self._max_file_bytes:
                self._close_file()
                self._fd = fd
                self._begin(index)
                return
            os.close(fd)
        raise OSError(errno.EEXIST, f"{self._prefix}{first} and the next are no plain files")

    def _begin(self, index: int) -> None:
        """Note that `index` is the newest file and remove those that are too many."""
        self._indexes = [*(older for older in self._indexes if older < index), index]
        for old in self._indexes[: -self._max_files]:
            # It may be gone already, or be a directory that somebody put there.
            with contextlib.suppress(OSError):
                os.unlink(f"{self._prefix}{old}", dir_fd=self._dir_fd)
        del self._indexes[: -self._max_files]

    def write(self, data: bytes) -> None:
        """Append `data`. Never raises: what the disk refuses is dropped, counted and told later."""
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
        """Return how many bytes of `data` were written, all of them unless the disk refused."""
        done = 0
        try:
            while done < len(data):
                done += self._append_some(data[done:])
        except OSError as exc:
            self._report(exc)
        return done

    def _append_some(self, data: bytes) -> int:
        if self._dir_fd < 0:
            raise OSError(errno.EBADF, "the log is closed")
        size = self._current_size()
        room = self._max_file_bytes - size
        end = len(data) if len(data) <= room else data.rfind(b"\n", 0, max(room, 0)) + 1
        if end == 0 and size > 0:
            self._open(self._indexes[-1] + 1)
            room = self._max_file_bytes - self._current_size()
            end = len(data) if len(data) <= room else data.rfind(b"\n", 0, room) + 1
        # A line longer than a whole file is cut where the file ends.
        return os.write(self._fd, data[: end or room])

    def _current_size(self) -> int:
        """Return the size of the current file, made anew where somebody has removed it."""
        if self._fd >= 0:
            info = os.fstat(self._fd)
            if info.st_nlink:
                return info.st_size
        self._open(self._indexes[-1] if self._indexes else 0)
        return os.fstat(self._fd).st_size

    def _report(self, exc: OSError) -> None:
        """Tell the driver's log, once for each time that writing stops."""
        if not self._unreported_bytes:
            log.warning(
                "task log could not be written", extra={"path": str(self._path), "error": str(exc)}
            )

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Close the log; what is written afterwards counts as dropped. Harmless when done twice."""
        self._close_file()
        if self._dir_fd >= 0:
            os.close(self._dir_fd)
            self._dir_fd = -1


def _open_logs_dir(logs_dir: Path) -> int:
    """Open `<alloc_dir>/alloc/logs`, of which only `<alloc_dir>` is Nomad's alone."""
    alloc_fd = os.open(logs_dir.parent.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        relative = f"{logs_dir.parent.name}/{logs_dir.name}"
        return open_beneath(alloc_fd, relative, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(alloc_fd)
