"""Removing a directory with all that is in it, at any depth, without following a link."""

import errno
import os
import secrets
import stat
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import TEMP_PREFIX, host_error


def remove_tree(path: Path) -> None:
    """Remove `path` and all below it. Links are removed, not followed. It need not exist.

    Raises:
        HostError: something could not be removed; the rest may be gone.
    """
    # If another process removes a file at the same moment, one walk fails, but not the next.
    for attempts_left in (2, 1, 0):
        try:
            if stat.S_ISDIR(path.lstat().st_mode):
                _remove_directory(path)
            else:
                path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            if exc.errno == errno.ENOTEMPTY and attempts_left:
                continue
            raise host_error("remove", exc.filename or path, exc) from exc
        return
    if os.path.lexists(path):
        raise HostError(f"cannot remove {path}: other processes keep changing it")


def _remove_directory(path: Path) -> None:
    """Remove a directory and all below it, with only two descriptors open at any depth.

    The directories inside a directory are moved up to `path` first: a hostile process may have
    nested the tree deeper than a recursive walk can go (shutil.rmtree keeps a descriptor open for
    each level).
    """
    top = _open_in(None, path)
    try:
        names = os.listdir(top)  # noqa: PTH208 - of a descriptor
        while names:
            name = names.pop()
            if not _is_unlinked(top, name):
                names += _empty_into(top, name)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _empty_into(top: int, name: str) -> list[str]:
    """Remove the files of directory `name`; move its directories up and return their new names."""
    moved = []
    directory = _open_in(top, name)
    try:
        for inner in os.listdir(directory):  # noqa: PTH208 - of a descriptor
            if not _is_unlinked(directory, inner):
                moved.append(f"{TEMP_PREFIX}{secrets.token_hex(8)}")
                os.rename(inner, moved[-1], src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)
    return moved


def _open_in(parent: int | None, name: Path | str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def _is_unlinked(directory: int, name: str) -> bool:
    """Remove `name` from `directory` and return True; False if it is a directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        return False
    return True
