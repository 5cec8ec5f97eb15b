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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from osimage.build.errors import BuildError

_KEPT = 4
MAX_AGE_DAYS = 7
"""How old installed packages may be: Debian's fixes of security faults come on most days."""


def say(text: str) -> None:
    """Tell the person who waits for the build."""
    sys.stderr.write(f"osimage: {text}\n")
    sys.stderr.flush()


def digest_of(words: Iterable[str] = (), *, files: Iterable[Path] = ()) -> str:
    """Return a short digest of `words`, and of path, mode and content of `files`.

    A directory counts with all that is in it, empty directories included.
    """
    total = hashlib.sha256()
    for word in words:
        total.update(b"w%d:" % len(word) + word.encode())
    for top in files:
        for path in _files_below(top):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                kind, content = b"l", os.fsencode(path.readlink())
            elif stat.S_ISDIR(mode):
                kind, content = b"d", b""
            else:
                kind, content = b"x" if mode & 0o100 else b"f", path.read_bytes()
            name = os.fsencode(path.relative_to(top.parent))
            total.update(kind + name + b":" + hashlib.sha256(content).digest())
    return total.hexdigest()[:16]


def _files_below(top: Path) -> list[Path]:
    """Return what is below a directory, or `top` itself, without Python's caches."""
    if not top.is_dir() or top.is_symlink():
        return [top]
    return sorted(path for path in top.rglob("*") if "__pycache__" not in path.parts)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, for who adds to it or removes from it."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


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
        self,
        name: str,
        digest: str,
        make: Callable[[Path, Path], None],
        *,
        about: str,
        look_again: Callable[[], str] | None = None,
        is_sound: Callable[[Path], bool] | None = None,
    ) -> Path:
        """Return the entry of `name` and `digest`, made unless it is there.

        Args:
            name: Of the step.
            digest: Of what goes into it.
            make: Is called with `target`, which it makes, and `scratch`, an empty directory that
                ends with the call.
            about: Says what takes so long.
            look_again: Returns the digest once more. Files of a person may change while the step
                reads them, and what came out would be kept as what it is not.
            is_sound: Tells whether a kept entry is still what was made. One that is not is made
                again.

        Raises:
            BuildError: what goes into it has changed meanwhile, and nothing is kept; or the entry
                is damaged while another build uses it.
        """
        entry = self._directory / f"{name}-{digest}"
        # Its lock and its time stand for the entry: the time of a root directory is the image's.
        mark = entry.with_name(f"{entry.name}.used")
        with mark.open("a") as lock:
            fd = os.dup(lock.fileno())
        self._in_use.append(fd)
        is_known = is_sound is None
        while True:
            if _try_lock(fd, fcntl.LOCK_EX):
                if is_sound is not None and _exists(entry) and not is_sound(entry):
                    say(f"{entry} is damaged: makes it again")
                    self._discard(entry, name)
                if not _exists(entry):
                    self._remove_litter()
                    say(about)
                    self._make(entry, name, make, look_again)
                is_known = True
            elif not _exists(entry):
                say(f"waits for another build, which makes {name}")
            fcntl.flock(fd, fcntl.LOCK_SH)
            # One lock is given up before the other is had (flock(2)): somebody may have removed it.
            if _exists(entry):
                break
        if not is_known and is_sound is not None and not is_sound(entry):
            raise BuildError(
                f"{entry} is damaged, and another build uses it",
                hint="try again when that build is done",
            )
        os.utime(mark)
        self._remove_old(name, mark)
        return entry

    def digests(self, name: str) -> list[str]:
        """Return the digests of the entries of `name` that are kept."""
        marks = self._directory.glob(f"{name}-*.used")
        return [
            entry.name.removeprefix(f"{name}-")
            for mark in marks
            if _exists(entry := _entry_of(mark))
        ]

    def _make(
        self,
        entry: Path,
        name: str,
        make: Callable[[Path, Path], None],
        look_again: Callable[[], str] | None,
    ) -> None:
        with self._scratch(name) as scratch:
            target = scratch / "made"
            make(target, scratch)
            if look_again is not None and entry.name != f"{name}-{look_again()}":
                raise BuildError(f"files changed while {name} was made of them", hint="try again")
            target.rename(entry)

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        """Give a directory that nobody removes as litter; it ends with the block."""
        # Nobody looks for litter between the two steps.
        with locked(self._directory):
            scratch = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self._directory))
            fd = os.open(scratch, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            scratch.chmod(0o755)
            yield scratch
        finally:
            _remove(scratch)
            os.close(fd)

    def _remove_old(self, name: str, newest: Path) -> None:
        """Remove entries that are old and that no process uses.

        Their marks stay: another process may be waiting for the lock of one.
        """
        entries = {mark: _entry_of(mark) for mark in self._directory.glob(f"{name}-*.used")}
        marks = [mark for mark, entry in entries.items() if mark != newest and _exists(entry)]
        by_age = sorted(marks, key=lambda mark: mark.stat().st_mtime, reverse=True)
        for mark in by_age[_KEPT - 1 :]:
            with mark.open() as file:
                if _try_lock(file.fileno(), fcntl.LOCK_EX) and _exists(entries[mark]):
                    self._discard(entries[mark], name)

    def _discard(self, entry: Path, name: str) -> None:
        """Remove an entry at once: a half that is left would be taken for the whole."""
        with self._scratch(name) as scratch:
            entry.rename(scratch / "old")

    def _remove_litter(self) -> None:
        """Remove what killed builds left: nobody locks it."""
        with locked(self._directory):
            for path in self._directory.glob("*.*"):
                if not path.is_dir():
                    continue
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _try_lock(fd, fcntl.LOCK_EX):
                        _remove(path)
                finally:
                    os.close(fd)


def _entry_of(mark: Path) -> Path:
    return mark.with_name(mark.name.removesuffix(".used"))


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
