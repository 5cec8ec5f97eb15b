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

_KEPT = 3


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
        with (self._directory / f"{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waits for another build, which makes {name}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not _exists(entry):
                self._remove_litter(name)
                say(about)
                self._make(entry, name, make)
            self._hold(entry)
            self._remove_old(name)
        return entry

    def _make(self, entry: Path, name: str, make: Callable[[Path, Path], None]) -> None:
        scratch = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self._directory))
        scratch.chmod(0o755)
        try:
            target = scratch / "made"
            make(target, scratch)
            target.rename(entry)
        finally:
            _remove(scratch)

    def _hold(self, entry: Path) -> None:
        """Keep others from removing an entry, and make it the newest."""
        os.utime(self._mark(entry))
        fd = os.open(self._mark(entry), os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH)
        self._in_use.append(fd)

    def _mark(self, entry: Path) -> Path:
        """Return the file beside an entry whose lock and time stand for it.

        Not the entry itself: the time of a root directory belongs to the image.
        """
        mark = entry.with_name(f"{entry.name}.used")
        mark.touch()
        return mark

    def _remove_old(self, name: str) -> None:
        marks = self._directory.glob(f"{name}-*.used")
        by_age = sorted(marks, key=lambda mark: mark.stat().st_mtime, reverse=True)
        for mark in by_age[_KEPT:]:
            with mark.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                _remove(mark.with_name(mark.name.removesuffix(".used")))
                mark.unlink()

    def _remove_litter(self, name: str) -> None:
        """Remove what a killed build left. The caller holds the lock of `name`."""
        for path in self._directory.glob(f"{name}.*"):
            if path.is_dir():
                _remove(path)


def _exists(entry: Path) -> bool:
    return entry.exists() or entry.is_symlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
