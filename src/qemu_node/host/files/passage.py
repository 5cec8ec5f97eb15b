"""Whether users other than its owner can pass through a directory.

Each VM runs as a user of its own, which must be able to pass through every directory above the
VM's files. Owns the check. Does not own making the node's directories.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import MissingPartError

_ACL = "system.posix_acl_access"


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
