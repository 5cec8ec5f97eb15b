"""The files that a job puts on its config drive, read from the task's directory.

Owns the limits, and that no link is followed: the task can change its directory, and we may be
root. Does not own what is made of the files (`content`).
"""

import os
import stat
from pathlib import Path

from qemu_node.configdrive.content import SOURCE
from qemu_node.configdrive.iso import MAX_DEPTH
from qemu_node.errors import JobError
from qemu_node.host.files import beneath

_MAX_FILES = 256
_MAX_ENTRIES = 1024  # files and directories
_MAX_BYTES = 32 << 20


def read_config_drive(task_dir: Path) -> dict[str, bytes]:
    """Return the files below `local/config-drive` of a task by path; empty if there are none.

    Raises:
        JobError: there is something else than files and directories, or the files are too many,
            too large or not readable. The message names the file.
    """
    try:
        task_fd = os.open(task_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise JobError(f"cannot read {task_dir}: {exc.strerror}") from exc
    try:
        if not _exists(task_fd):
            return {}
        reader = _TreeReader(task_fd)
        reader.read_directory("", 1)
        return reader.files
    finally:
        os.close(task_fd)


def _exists(task_fd: int) -> bool:
    try:
        os.close(beneath.open_beneath(task_fd, SOURCE, os.O_RDONLY | os.O_DIRECTORY))
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise JobError(f"{SOURCE} is not a directory, or a link leads to it") from exc
    return True


class _TreeReader:
    """Reads a directory tree into memory, up to the limits."""

    def __init__(self, task_fd: int) -> None:
        self._task_fd = task_fd
        self._bytes = 0
        self._entries = 0
        self.files: dict[str, bytes] = {}

    def read_directory(self, relative: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise JobError(f"{SOURCE}/{relative} is more than {MAX_DEPTH} levels deep")
        fd = self._open(relative, os.O_DIRECTORY)
        try:
            names = sorted(entry.name for entry in os.scandir(fd))
            self._entries += len(names)
            if self._entries > _MAX_ENTRIES:
                raise JobError(f"{SOURCE} holds more than {_MAX_ENTRIES} files and directories")
            for name in names:
                child = f"{relative}/{name}" if relative else name
                # Checked before it is opened: to open a device may have an effect.
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    self.read_directory(child, depth + 1)
                elif stat.S_ISREG(mode):
                    self.files[child] = self._read_file(child)
                else:
                    raise JobError(f"{SOURCE}/{child} is a link or not a regular file")
        except OSError as exc:
            raise JobError(f"cannot read {SOURCE}/{relative}: {exc.strerror}") from exc
        finally:
            os.close(fd)

    def _read_file(self, relative: str) -> bytes:
        if len(self.files) == _MAX_FILES:
            raise JobError(f"{SOURCE} holds more than {_MAX_FILES} files")
        fd = self._open(relative, os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not beneath.is_plain_file(fd):
                raise JobError(f"{SOURCE}/{relative} is a hard link or not a regular file")
            content = file.read(_MAX_BYTES - self._bytes + 1)
        self._bytes += len(content)
        if self._bytes > _MAX_BYTES:
            raise JobError(f"{SOURCE} holds more than {_MAX_BYTES >> 20} MiB")
        return content

    def _open(self, relative: str, flags: int) -> int:
        path = f"{SOURCE}/{relative}" if relative else SOURCE
        try:
            return beneath.open_beneath(self._task_fd, path, os.O_RDONLY | flags)
        except OSError as exc:
            raise JobError(f"cannot read {path}: {exc.strerror}") from exc
