"""What a VM's guest has printed: its task's log, and what no driver has moved there yet.

Owns reading, also while the log grows. Writes nothing and needs no driver. Does not own the log
(`nomad.task.tasklog`) nor the serial log (`vm.output.serial`).
"""

import os
from pathlib import Path

from qemu_node.config.node import Paths
from qemu_node.errors import AS_ROOT, HostError
from qemu_node.host.files.atomic import host_error
from qemu_node.host.files.beneath import is_plain_file, open_beneath
from qemu_node.host.files.holes import seek_data
from qemu_node.inventory.state import VMStatus, summarize
from qemu_node.units import KIB
from qemu_node.vm.output.console_log import BACKLOG_BYTES
from qemu_node.vm.output.logfiles import list_log_numbers, log_prefix, open_logs_dir
from qemu_node.vm.output.serial import SerialLog
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.record import VMRecord

_CHUNK_BYTES = 64 * KIB


class ConsoleLog:
    """The log of one VM's console, read from its first line on, over all its files."""

    def __init__(self, alloc_dir: Path, task_name: str) -> None:
        self._logs_dir = alloc_dir / "alloc" / "logs"
        self._prefix = log_prefix(task_name, "stdout")
        self._number = 0
        self._offset = 0

    @classmethod
    def of(cls, record: VMRecord) -> "ConsoleLog":
        """Return that of a published VM."""
        return cls(Path(record.alloc_dir), record.identity.task)

    def read(self) -> bytes:
        """Return what comes next, at most 64 KiB; empty if there is nothing new.

        Raises:
            HostError: the log's directory cannot be read.
        """
        try:
            with open_logs_dir(self._logs_dir) as dir_fd:
                # Listed first: a file is complete as soon as there is a later one.
                for number in list_log_numbers(dir_fd, self._prefix):
                    if number < self._number:
                        continue
                    if number > self._number:
                        self._number, self._offset = number, 0
                    start, data = self._data_at(dir_fd, number, self._offset)
                    if data:
                        self._offset = start + len(data)
                        return data
        except OSError as exc:
            raise self._error(exc) from exc
        return b""

    def skip_to_last(self, lines: int) -> None:
        """Go on with the last `lines` lines of what is there now.

        Raises:
            HostError: the log's directory cannot be read.
        """
        try:
            with open_logs_dir(self._logs_dir) as dir_fd:
                self._skip_to_last(dir_fd, lines)
        except OSError as exc:
            raise self._error(exc) from exc

    def _skip_to_last(self, dir_fd: int, lines: int) -> None:
        numbers = list_log_numbers(dir_fd, self._prefix)
        is_last_byte = True
        for number in reversed(numbers):
            self._number = number
            end = self._offset = self._size(dir_fd, number)
            while end > 0:
                begin = max(end - _CHUNK_BYTES, 0)
                start, chunk = self._data_at(dir_fd, number, begin)
                chunk = chunk[: max(end - start, 0)]
                if not chunk:
                    # A hole, which may be of terabytes: nothing before it is looked for.
                    return
                # The newline at the very end is the last line's own.
                found = len(chunk) - 1 if is_last_byte and chunk.endswith(b"\n") else len(chunk)
                is_last_byte = False
                while lines > 0 and (found := chunk.rfind(b"\n", 0, found)) >= 0:
                    lines -= 1
                    self._offset = start + found + 1
                if lines == 0:
                    return
                end = self._offset = begin
            self._offset = 0

    def _size(self, dir_fd: int, number: int) -> int:
        fd = self._open(dir_fd, number)
        if fd is None:
            return 0
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def _data_at(self, dir_fd: int, number: int, offset: int) -> tuple[int, bytes]:
        """Return where data begins at or after `offset`, and its first bytes; no log has holes."""
        fd = self._open(dir_fd, number)
        if fd is None:
            return offset, b""
        try:
            start = seek_data(fd, offset)
            return (offset, b"") if start is None else (start, os.pread(fd, _CHUNK_BYTES, start))
        finally:
            os.close(fd)

    def _open(self, dir_fd: int, number: int) -> int | None:
        """Open a file; None for one that is gone or was put there by somebody else."""
        try:
            fd = open_beneath(dir_fd, f"{self._prefix}{number}", os.O_RDONLY | os.O_NONBLOCK)
        except PermissionError:
            raise
        except OSError:
            return None
        if is_plain_file(fd):
            return fd
        os.close(fd)
        return None

    def _error(self, exc: OSError) -> HostError:
        error = host_error("read the logs in", self._logs_dir, exc)
        if isinstance(exc, PermissionError):
            error.hint = AS_ROOT
        return error


def unlogged(paths: Paths, record: VMRecord) -> bytes | None:
    """Return what the guest printed since its driver went away; None beside a driver.

    Empty where this user may not read it.
    """
    if summarize(paths, record.vm_id).status is not VMStatus.UNMANAGED:
        return None
    try:
        serial = SerialLog(VMDirectory.of(paths, record.vm_id).serial_log)
        return serial.read_new(BACKLOG_BYTES).replace(b"\0", b"")
    except (OSError, HostError):
        return b""
