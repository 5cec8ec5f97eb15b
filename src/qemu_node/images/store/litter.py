"""Files in the image cache that killed processes left or that do not belong there; their removal.

Owns partial downloads that are not resumed, locks of sources that are not cached, temporary and
foreign files, and records that cannot be read. Does not own images (`keeper`).
"""

import contextlib
import logging
import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files import atomic, tree
from qemu_node.images.errors import storage_errors
from qemu_node.images.store.eviction import Evictable
from qemu_node.images.store.partialfile import info_path, read_info
from qemu_node.images.store.store import ImageStore

log = logging.getLogger(__name__)

RESUMABLE_S = 86_400.0
"""How long an interrupted download is kept, so that it can be resumed."""

_TEMPORARY_S = 3_600.0
"""A temporary file this old is not being written any more."""

_KEY = re.compile(r"[0-9A-Za-z-]{1,64}")
_LOCK = ".lock"


def clean(store: ImageStore, now_s: float) -> int:
    """Remove the litter of `store` at Unix time `now_s`, and return how many files that were.

    The files of a source whose lock is held are left alone: it is being downloaded.

    Raises:
        HostError: the directories cannot be read.
    """
    try:
        removed = _clean_partials(store, now_s)
        with store.exclusive():
            # Blobs and records are written under this lock only, so none is being written now.
            for directory, known in (
                (store.blobs_dir, {blob.path for blob in store.blobs()}),
                (store.sources_dir, {store.record_path(key) for key in store.known_sources()}),
            ):
                removed += _remove([path for path in directory.iterdir() if path not in known])
    except OSError as exc:
        raise atomic.host_error("clean", store.root, exc) from exc
    return removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Evictable):
    """An interrupted download that can be resumed; its last use is when its last byte arrived."""

    path: Path


@contextlib.contextmanager
def idle_parts(store: ImageStore) -> Generator[list[Part]]:
    """Give the partial downloads that are not running; none of them can start inside the block.

    Raises:
        ImageStorageError, HostError: they cannot be read.
    """
    parts = []
    with contextlib.ExitStack() as held:
        # There is no directory before the first image.
        with storage_errors("read", store.partials_dir), contextlib.suppress(FileNotFoundError):
            for key in sorted(filter(_KEY.fullmatch, _names(store.partials_dir))):
                lock = store.lock(key)
                if lock.try_acquire():
                    held.callback(lock.release)
                    with contextlib.suppress(FileNotFoundError):
                        parts.append(_part(store.partial_path(key)))
        yield parts


def _part(path: Path) -> Part:
    info = path.lstat()
    return Part(
        path=path,
        name=path.name,
        allocated_bytes=info.st_blocks * 512,
        last_used_at=info.st_mtime,
    )


def _clean_partials(store: ImageStore, now_s: float) -> int:
    names = _names(store.partials_dir)
    locks = {name.removesuffix(_LOCK) for name in _names(store.locks_dir) if name.endswith(_LOCK)}
    keys = {name.partition(".")[0] for name in names} | locks
    removed = 0
    for key in sorted(filter(_KEY.fullmatch, keys)):
        lock = store.lock(key)
        if not lock.try_acquire():
            continue
        try:
            removed += _remove(_dead_parts(store, key, now_s))
            if not store.record_path(key).exists():
                lock.path.unlink(missing_ok=True)
        finally:
            lock.release()
    strays = [name for name in names if not _KEY.fullmatch(name.partition(".")[0])]
    return removed + _remove(
        [
            store.partials_dir / name
            for name in strays
            if not name.startswith(atomic.TEMP_PREFIX)
            or _age_s(store.partials_dir / name, now_s) > _TEMPORARY_S
        ]
    )


def _dead_parts(store: ImageStore, key: str, now_s: float) -> list[Path]:
    """Return the files to remove of a download that is not running."""
    partial = store.partial_path(key)
    parts = [store.partials_dir / name for name in _names(store.partials_dir)]
    parts = [path for path in parts if path.name.partition(".")[0] == key]
    info = read_info(partial)
    if info is not None and info.is_resumable and _age_s(partial, now_s) <= RESUMABLE_S:
        kept = (partial, info_path(partial)) if partial in parts else ()
        return [path for path in parts if path not in kept]
    return parts


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def _age_s(path: Path, now_s: float) -> float:
    """Return how far the file's time is from now. After a clock was set back, it is old, too."""
    with contextlib.suppress(OSError):
        return abs(now_s - path.lstat().st_mtime)
    return 0.0


def _remove(paths: list[Path]) -> int:
    """Remove `paths` as far as possible, and return how many are gone."""
    removed = 0
    for path in paths:
        try:
            tree.remove_tree(path)
        except HostError as exc:
            log.warning("litter not removed", extra={"path": str(path), "error": str(exc)})
        else:
            removed += not os.path.lexists(path)
    return removed
