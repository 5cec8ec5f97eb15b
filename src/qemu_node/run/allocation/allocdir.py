"""Session and allocation directories of `qemu-node run`.

Owns `<data>/run/<session>/`: it is locked as long as the session runs, laid out as Nomad lays out
its own (client/allocdir), and removed at the end. What a killed session left is removed by the next
one. Does not own what a VM keeps below `<data>/vm`.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from qemu_node.errors import HostError, JobError, NodeError
from qemu_node.host.files.beneath import open_beneath
from qemu_node.host.files.directories import make_directory, open_directory
from qemu_node.host.files.lock import FileLock
from qemu_node.host.files.tree import remove_tree
from qemu_node.vm.record.record import StateError, read_record

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOCK_SUFFIX = ".lock"
# Nomad's modes: directories above an allocation can only be entered, those in it are open to all.
_PASS_MODE = 0o711
_OPEN_MODE = 0o777
_SECRET_MODE = 0o700


class SessionDir:
    """The directory of one session, locked from `create` to `remove`."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, root: Path) -> "SessionDir":
        """Make a new session below `root`, which is made too.

        Raises:
            HostError: the host refused; nothing is left.
        """
        path = root / secrets.token_hex(6)
        lock = FileLock(path.with_suffix(_LOCK_SUFFIX))
        open_directory(root.parent, _PASS_MODE)
        make_directory(root, _PASS_MODE)
        # Locked before the directory exists: a sweep never sees one without its lock.
        if not lock.try_acquire():
            raise HostError(f"the new session {path} is in use by another process")
        try:
            make_directory(path, _PASS_MODE)
        except HostError:
            lock.release()
            raise
        return cls(path, lock)

    def remove(self) -> None:
        """Remove the directory and everything in it.

        Raises:
            HostError: something could not be removed; a later sweep tries again.
        """
        try:
            remove_tree(self.path)
            self._lock.path.unlink(missing_ok=True)
        finally:
            self._lock.release()


def sweep(root: Path, *, vm_run_dir: Path) -> list[Path]:
    """Remove the sessions below `root` whose process is gone, and return them.

    A session to which a VM's record still points is left alone: its driver has not ended yet.
    """
    removed: list[Path] = []
    in_use = set(_alloc_dirs(vm_run_dir))
    for lock_path in sorted(root.glob(f"*{_LOCK_SUFFIX}")):
        path = lock_path.with_suffix("")
        lock = FileLock(lock_path)
        try:
            if any(used.is_relative_to(path) for used in in_use) or not lock.try_acquire():
                continue
            SessionDir(path, lock).remove()
            removed.append(path)
        except HostError as exc:
            log.warning("left-over session", extra={"path": str(path), "error": str(exc)})
    return removed


def _alloc_dirs(vm_run_dir: Path) -> Iterator[Path]:
    for record_path in vm_run_dir.glob("*/vm.json"):
        try:
            yield Path(read_record(record_path).alloc_dir)
        except StateError as exc:
            log.debug("unreadable record", extra={"path": str(record_path), "error": str(exc)})


def make_alloc_dir(session: Path, alloc_id: str, task_names: list[str]) -> Path:
    """Make the directories of an allocation and its tasks, and return the allocation's.

    Raises:
        HostError: the host refused a step; what was made stays with its session.
    """
    alloc_dir = session / "alloc" / alloc_id
    make_directory(session / "alloc", _PASS_MODE)
    make_directory(alloc_dir, _PASS_MODE)
    for name in ("", "logs", "tmp", "data"):
        make_directory(alloc_dir / "alloc" / name, _OPEN_MODE)
    for task_name in task_names:
        task_dir = alloc_dir / task_name
        for name in ("", "local", "tmp"):
            make_directory(task_dir / name, _OPEN_MODE)
        for name in ("secrets", "private"):
            make_directory(task_dir / name, _SECRET_MODE)
    return alloc_dir


def read_source(path: str, task_dir: Path, where: str) -> str:
    """Return the text of a template's `source`, inside the task directory.

    Raises:
        JobError: it is not there, not inside, or not UTF-8 text.
    """
    return _beneath(task_dir, path, where, _read)


def write_rendered(path: str, text: str, perms: int, task_dir: Path, where: str) -> None:
    """Write a rendered template to `path`, inside the task directory; directories are made.

    Raises:
        JobError: `path` leads out of the task directory.
    """

    def write(dir_fd: int, relative: str) -> None:
        for parent in reversed(list(Path(relative).parents)[:-1]):
            if not (task_dir / parent).is_dir():
                make_directory(task_dir / parent, _OPEN_MODE)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(open_beneath(dir_fd, relative, flags, mode=perms), "wb") as file:
            file.write(text.encode())
            os.fchmod(file.fileno(), perms)

    _beneath(task_dir, path, where, write)


def _read(dir_fd: int, relative: str) -> str:
    with os.fdopen(open_beneath(dir_fd, relative, os.O_RDONLY), "rb") as file:
        return file.read().decode()


def _beneath(task_dir: Path, path: str, where: str, act: Callable[[int, str], T]) -> T:
    """Call `act` with the task directory's descriptor and `path` relative to it."""
    relative = _relative(path, where)
    dir_fd = os.open(task_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return act(dir_fd, relative)
    except (OSError, UnicodeDecodeError, NodeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise JobError(f"{where}: {path}: {reason}") from exc
    finally:
        os.close(dir_fd)


def _relative(path: str, where: str) -> str:
    """Return `path` relative to the task directory; `/local/x` is `local/x`, as for a driver."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise JobError(
            f"{where}: {path!r} is not inside the task directory",
            hint='write it as "local/…"',
        )
    return "/".join(parts)
