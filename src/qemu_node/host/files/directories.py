"""Directories of ours, with the mode they need, and whether VMs can reach what is in them.

Owns making them and setting their mode: mkdir(2) applies the umask, and an existing directory
keeps its mode. Each VM runs as a user of its own, which must be able to pass through every
directory above the VM's files. Does not own what is in them.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import MissingPartError
from qemu_node.host.files.atomic import host_error

_ACL = "system.posix_acl_access"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedDirectory:
    """A directory that only its owner and its group may pass through."""

    path: Path
    mode: int

    def problem(self, setting: str) -> str:
        """Return what is wrong; the path in `setting` of node.toml is below it."""
        return (
            f"VMs' users cannot pass {self.path} (mode {self.mode:04o}), which leads to {setting}"
        )

    def hint(self, setting: str) -> str:
        """Return what to do about it."""
        needed = self.mode | stat.S_IXGRP | stat.S_IXOTH
        return f"chmod {needed:04o} {self.path}, or set {setting} in node.toml to another place"


def closed_directory(path: Path) -> ClosedDirectory | None:
    """Return the topmost directory above `path` that others may not pass; None if there is none.

    Where a link is on the way, the directories above its target count, too. A directory with an
    access control list is taken to be open, because its mode does not tell.
    """
    for directory in _above(path):
        try:
            mode = stat.S_IMODE(os.stat(directory).st_mode)  # noqa: PTH116 - no paths, as in _above
        except OSError:
            # It does not exist yet; it will be made.
            continue
        if not mode & stat.S_IXOTH and not _has_acl(directory):
            return ClosedDirectory(path=Path(directory), mode=mode)
    return None


def require_passage(path: Path, setting: str) -> None:
    """Return if VMs' users can pass all directories above `path`.

    Args:
        path: A file or directory of VMs.
        setting: The setting of node.toml that names the place.

    Raises:
        MissingPartError: a directory is closed to them; the message names it and the mode that it
            needs.
    """
    closed = closed_directory(path)
    if closed is not None:
        raise MissingPartError(closed.problem(setting), hint=closed.hint(setting))


def _above(path: Path) -> list[str]:
    """Return the directories above a path, both as written and with links resolved, the top first.

    As strings, which is faster: each start checks all of them.
    """
    written = str(path.parent)
    found = [*_down_to(written), *_down_to(os.path.realpath(written))]
    return list(dict.fromkeys(found))


def _down_to(directory: str) -> list[str]:
    names = directory.split("/")
    return ["/", *("/".join(names[:n]) for n in range(2, len(names) + 1))]


def _has_acl(directory: str) -> bool:
    try:
        return bool(os.getxattr(directory, _ACL))
    except OSError:
        return False
