"""The bound of what waits in a serial log while no driver reads it.

Owns the place where a serial log begins, and QEMU's limit of file sizes that ends it. Does not own
reading it (`serial`).

Nobody but the kernel can stop QEMU's appending while there is no driver. RLIMIT_FSIZE does: a write
beyond it fails, which QEMU ignores for the log of a chardev (chardev/char.c, qemu_chr_write_log),
as the launcher lets it ignore SIGXFSZ. The limit is one for all files of a process, and a disk must
never meet it. So the log begins behind a hole that is larger than any of them can be. The driver
moves the limit forward as it consumes. Only the file and the kernel's limit are state, and the next
driver finds both.
"""

import logging
import os
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host import limits
from qemu_node.host.files.holes import punch_hole, seek_data
from qemu_node.host.limits import NoFileSizeLimitError
from qemu_node.host.process.identity import ProcessId
from qemu_node.units import MIB, TIB

log = logging.getLogger(__name__)

LOG_BEGIN_BYTES = 8 * TIB
"""Where a bounded log begins: half of what a file of ext4 can have with blocks of 4 KiB."""

BOUNDED_DISK_MAX_BYTES = LOG_BEGIN_BYTES // 2
"""The largest virtual disk beside a bounded log: its overlay has some metadata on top."""

_STEP_BYTES = 1 * MIB
"""How far the reader goes before the limit is moved again."""


def create_log(path: Path, owner: tuple[int, int] | None, *, disk_bytes: int) -> None:
    """Make the file for QEMU to append to, which may not create files there.

    Args:
        path: The log.
        owner: User and group.
        disk_bytes: The VM's virtual disk; one that is too large for a bound has a log without.

    Raises:
        HostError: it exists, or the file system failed.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if owner is not None:
                os.fchown(fd, *owner)
            if disk_bytes <= BOUNDED_DISK_MAX_BYTES:
                _begin_behind_hole(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        raise HostError(f"cannot make {path}: {exc.strerror}") from exc


def _begin_behind_hole(fd: int) -> None:
    """Let the empty file begin at `LOG_BEGIN_BYTES`, or leave it empty where that takes space."""
    if not punch_hole(fd, 0, 1):
        return
    try:
        os.ftruncate(fd, LOG_BEGIN_BYTES)
        # A reader must be able to skip the hole.
        is_hole = seek_data(fd, 0) is None
    except OSError:  # EFBIG: ext4 with blocks of 1 KiB ends at 4 TiB
        is_hole = False
    if not is_hole:
        os.ftruncate(fd, 0)


class SerialBound:
    """QEMU's limit of file sizes, kept some way ahead of the reader of its serial log.

    Without effect where there can be no limit: a log that begins at 0 (an earlier version's, or a
    file system without holes) or a QEMU that does not ignore SIGXFSZ.
    """

    def __init__(self, process: ProcessId, unread_max_bytes: int) -> None:
        """Make the bound, `unread_max_bytes` ahead of the reader of what `process` writes."""
        self._process = process
        self._unread_max_bytes = unread_max_bytes
        self._moved_at: int | None = None

    def begin(self, path: Path, size: int) -> None:
        """Set the limit where no driver has, for a log of `size` bytes."""
        if size < LOG_BEGIN_BYTES:
            return
        try:
            limit = limits.read_file_size_limit(self._process)
            if limit is None:
                limits.set_file_size_limit(self._process, size + self._unread_max_bytes)
        except ProcessLookupError:
            return
        except NoFileSizeLimitError as exc:
            extra = {"path": str(path), "error": str(exc)}
            log.warning("the serial log has no bound while no driver runs", extra=extra)
            return
        self._moved_at = LOG_BEGIN_BYTES
        if limit is not None and size >= limit:
            log.warning(
                "the serial log was full, its guest's later output is lost",
                extra={"path": str(path), "unread_max_bytes": self._unread_max_bytes},
            )

    def move(self, position: int) -> None:
        """Follow the reader, which has consumed everything before `position`."""
        if self._moved_at is None or position - self._moved_at < _STEP_BYTES:
            return
        self._moved_at = position
        try:
            limits.set_file_size_limit(self._process, position + self._unread_max_bytes)
        except ProcessLookupError:
            pass  # What it printed last is being read.
        except NoFileSizeLimitError as exc:
            log.warning("the serial log's bound could not be moved", extra={"error": str(exc)})
