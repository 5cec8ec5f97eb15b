"""Finished steps of a build, kept by the digest of what went into them.

Owns the directory, its locks and what is removed from it. Does not know what a step makes.

An entry, a file or a directory, appears whole or not at all. A process holds a shared lock on each
entry that it uses, so that no other process removes it. The newest `_KEPT` entries of each name
stay.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

_KEPT = 4


def say(text: str) -> None:
    """Tell the person who waits for the build."""
    sys.stderr.write(f"osimage: {text}\n")
    sys.stderr.flush()


def digest_of(words: Iterable[str] = (), *, files: Iterable[Path] = ()) -> str:
    """Return a short digest of `words`, and of path, mode and content of `files`.

    A directory counts with all that is in it.
    """
    total = hashlib.sha256()
    for word in words:
        total.update(b"w%d:" % len(word) + word.encode())
    for top in files:
        for path in _files_below(top):
            mode = path.lstat().st_mode
            is_link = stat.S_ISLNK(mode)
            content = os.fsencode(path.readlink()) if is_link else path.read_bytes()
            name = path.relative_to(top.parent)
            kind = "l" if is_link else "x" if mode & 0o100 else "f"
            total.update(f"{kind}{name}:".encode() + hashlib.sha256(content).digest())
    return total.hexdigest()[:16]


def _files_below(top: Path) -> list[Path]:
    """Return the files and links below a directory, or `top` itself, without Python's caches."""
    if not top.is_dir() or top.is_symlink():
        return [top]
    return sorted(
        path
        for path in top.rglob("*")
        if "__pycache__" not in path.parts and (path.is_symlink() or not path.is_dir())
    )


class Stages:
    """The store of finished steps. Entries in use stay until it is closed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._in_use: list[int] = []

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._in_use:
            os.close(fd)
        self._in_use.clear()

    def get(
        self, name: str, digest: str, make: Callable[[Path, Path], None], *, about: str
    ) -> Path:
        """Return the entry of `name` and `digest`, made unless it is there.

        By `make(target, scratch)`: `scratch` is an empty directory that ends with the call. `about`
        says what takes so long.
        """
        entry = self._directory / f"{name}-{digest}"
        # Its lock and its time stand for the entry: the time of a root directory is the image's.
        mark = entry.with_name(f"{entry.name}.used")
        with mark.open("a") as lock:
            fd = os.dup(lock.fileno())
        self._in_use.append(fd)
        if not _try_lock(fd, fcntl.LOCK_EX):
            if not _exists(entry):
                say(f"waits for another build, which makes {name}")
            fcntl.flock(fd, fcntl.LOCK_SH if _exists(entry) else fcntl.LOCK_EX)
        if not _exists(entry):
            self._remove_litter(name)
            say(about)
            self._make(entry, name, make)
        fcntl.flock(fd, fcntl.LOCK_SH)
        os.utime(mark)
        self._remove_old(name, mark)
        return entry

    def _make(self, entry: Path, name: str, make: Callable[[Path, Path], None]) -> None:
        scratch = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self._directory))
        scratch.chmod(0o755)
        fd = os.open(scratch, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            target = scratch / "made"
            make(target, scratch)
            target.rename(entry)
        finally:
            _remove(scratch)
            os.close(fd)

    def _remove_old(self, name: str, newest: Path) -> None:
        """Remove entries that are old and that no process uses.

        Their marks stay: another process may be waiting for the lock of one.
        """
        marks = [mark for mark in self._directory.glob(f"{name}-*.used") if mark != newest]
        by_age = sorted(marks, key=lambda mark: mark.stat().st_mtime, reverse=True)
        for mark in by_age[_KEPT - 1 :]:
            with mark.open() as file:
                if _try_lock(file.fileno(), fcntl.LOCK_EX):
                    _remove(mark.with_name(mark.name.removesuffix(".used")))

    def _remove_litter(self, name: str) -> None:
        """Remove what a killed build left: nobody locks it."""
        for path in self._directory.glob(f"{name}.*"):
            if not path.is_dir():
                continue
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _try_lock(fd, fcntl.LOCK_EX):
                    _remove(path)
            finally:
                os.close(fd)


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _exists(entry: Path) -> bool:
    return entry.exists() or entry.is_symlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
