"""Directories of ours, with the mode they need.

Owns making them and setting their mode: mkdir(2) applies the umask, and an existing directory
keeps its mode. Does not own what is in them.
"""

import errno
import os
import stat
from pathlib import Path

from qemu_node.host.files.atomic import host_error

_PARENT_MODE = 0o755


def make_directory(path: Path, mode: int, *, gid: int | None = None) -> None:
    """Make `path` a directory with exactly `mode`, whatever the umask and its earlier mode.

    Missing parents are made with mode 0755; existing ones are not changed.

    Args:
        path: The directory. A symbolic link is refused.
        mode: Its permissions.
        gid: Its group.

    Raises:
        HostError: the host refused.
    """
    try:
        _make(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if gid is not None:
                os.fchown(fd, -1, gid)
            if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
                os.fchmod(fd, mode)
        finally:
            os.close(fd)
    except OSError as exc:
        raise host_error("make", path, exc) from exc


def open_directory(path: Path, mode: int) -> None:
    """Make `path` a directory with at least the permissions of `mode`.

    It may be a symbolic link, with which an operator has put it on another disk. Missing parents
    are made with mode 0755; existing ones are not changed.

    Raises:
        HostError: the host refused.
    """
    try:
        _make(path)
        present = stat.S_IMODE(path.stat().st_mode)
        if present & mode != mode:
            path.chmod(present | mode)
    except OSError as exc:
        raise host_error("make", path, exc) from exc


def open_parents(top: Path, path: Path, mode: int) -> None:
    """Make `top`, and every directory from there down to `path`, as `open_directory` does.

    Raises:
        HostError: the host refused.
    """
    for parent in reversed(path.relative_to(top).parents):
        open_directory(top / parent, mode)


def _make(path: Path) -> bool:
    """Make a directory that only we may use, with its parents; False if there is one."""
    try:
        return _make_new(path)
    except FileNotFoundError:
        if _make(path.parent):
            path.parent.chmod(_PARENT_MODE)
        return _make_new(path)


def _make_new(path: Path) -> bool:
    """Make a directory that only we may use; False if it exists."""
    try:
        path.mkdir(mode=0o700)
    except (FileExistsError, NotADirectoryError):
        # Another process may have made it meanwhile.
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "something else is there", str(path)) from None
        return False
    return True
