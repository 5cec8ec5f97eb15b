"""The files of the image cache: where they are, which of them are valid, and who may change them.

Owns the layout below, the records in it and the order in which both change. Does not own what is
downloaded (`download`), which image is removed (`eviction`, `keeper`), nor litter (`litter`).

    <images>/blobs/sha256-<hex>.<format>   one image, complete, verified, 0444, never changed; its
                                           format is part of its name, so it is detected only once;
                                           its mtime is its last use
    <images>/sources/<key>.json            SourceRecord: what the source has served, by digest
    <images>/partial/<key>…                a download that runs or was interrupted
    <images>/locks/<key>.lock              flock: the right to download this source
    <images>/store.lock                    flock, held for moments: the right to add or remove blobs
                                           and records

`<key>` stands for a source with its credentials (`Remote.key`). A blob gets its name only when it
is complete and on stable storage; the record that names it is written afterwards, both under the
store's lock, so that no sweep sees one without the other. A crash between the two leaves a blob
that no record names: the next sweep removes it, or the next download of the same bytes uses it. A
removal is done in the other order: first the records, then the blob. Only the owner can list the
names of blobs, as VMs of any user may read their content.

A process that needs both locks takes the source's first.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Generator
from enum import StrEnum
from pathlib import Path

import msgspec

from qemu_node.errors import HostError
from qemu_node.host.files import atomic
from qemu_node.host.files.directories import make_directory
from qemu_node.host.files.lock import FileLock
from qemu_node.images.errors import ImageStorageError, storage_errors
from qemu_node.images.store.blob import Blob, list_blobs
from qemu_node.images.store.partialfile import PartialFile
from qemu_node.images.store.sourcerecord import RECORD_VERSION, SourceRecord, Version
from qemu_node.text import DECODE_ERRORS

log = logging.getLogger(__name__)

_STORE_LOCK_TIMEOUT_S = 60.0
"""The lock is held for milliseconds; a failing disk may take longer."""


class SwapStep(StrEnum):
    """The steps by which a new image is added to the cache, in order; each is announced."""

    SYNC = "sync"
    BLOB = "blob"
    RECORD = "record"


class RemovalStep(StrEnum):
    """The steps by which an image is removed from the cache, in order; each is announced."""

    RECORDS = "records"
    BLOB = "blob"


class ImageStore:
    """The cache's directories. Methods block for a few file operations.

    They raise `ImageStorageError` where the host refuses.
    """

    def __init__(self, images_dir: Path) -> None:
        self.root = images_dir
        self.blobs_dir = images_dir / "blobs"
        self.sources_dir = images_dir / "sources"
        self.partials_dir = images_dir / "partial"
        self.locks_dir = images_dir / "locks"

    def prepare(self) -> None:
        """Make the directories that are missing."""
        modes = {
            self.blobs_dir: 0o711,
            self.sources_dir: 0o700,
            self.partials_dir: 0o700,
            self.locks_dir: 0o700,
        }
        try:
            for directory, mode in modes.items():
                make_directory(directory, mode)
        except HostError as exc:
            raise ImageStorageError(str(exc), hint=exc.hint) from exc

    # Locks

    def lock(self, key: str) -> FileLock:
        """Return the lock on a source, not yet taken."""
        return FileLock(self.locks_dir / f"{key}.lock")

    @contextlib.contextmanager
    def exclusive(self) -> Generator[None]:
        """Hold the store's lock inside the block: nothing else adds or removes blobs or records."""
        lock = FileLock(self.root / "store.lock")
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock.hold_blocking(_STORE_LOCK_TIMEOUT_S))
            except HostError as exc:
                raise ImageStorageError(str(exc), hint=exc.hint) from exc
            yield

    # Downloads

    def partial_path(self, key: str) -> Path:
        """Return the path of a source's partial download."""
        return self.partials_dir / key

    # What sources have served

    def record_path(self, key: str) -> Path:
        """Return where a source's record is."""
        return self.sources_dir / f"{key}.json"

    def blob_path(self, version: Version) -> Path:
        """Return where the image of `version` is."""
        return self.blobs_dir / version.blob_name

    def read_record(self, key: str) -> SourceRecord | None:
        """Return the record of a source, reduced to the images that are there and complete."""
        record = self._decode(self.record_path(key))
        if record is None:
            return None
        return record.reduced_to([each for each in record.versions if self._is_whole(each)])

    def _is_whole(self, version: Version) -> bool:
        path = self.blob_path(version)
        try:
            info = path.lstat()
        except OSError:
            return False
        if not stat.S_ISREG(info.st_mode) or info.st_size != version.size_bytes:
            log.warning("cached image is damaged", extra={"path": str(path)})
            return False
        return True

    def update(self, key: str, change: Callable[[SourceRecord], SourceRecord]) -> None:
        """Change the record of a source, if there is one. No concurrent change is lost.

        Raises:
            ImageStorageError: the host refused; the former record stands.
        """
        with self.exclusive():
            record = self._decode(self.record_path(key))
            if record is not None and (changed := change(record)) != record:
                self._encode(key, changed)

    def place(self, key: str, partial: PartialFile, record: SourceRecord) -> SourceRecord:
        """Put a verified download in place and write its record; return that.

        The versions in the source's former record are kept. The caller holds the source's lock. If
        the same bytes are there already, from another source, that file stays, in use or not.

        Raises:
            ImageStorageError: the host refused; neither a blob nor a record was half written.
        """
        blob = self.blob_path(record)
        _announce("swap", SwapStep.SYNC)
        with storage_errors("write", blob):
            # Before the store's lock is taken: syncing a large image may take long.
            os.fsync(partial.fileno())
        with self.exclusive():
            with contextlib.suppress(OSError):
                if blob.lstat().st_size == record.size_bytes:
                    # Used now, so that no sweep removes it before its first VM links to it.
                    os.utime(blob)
                    partial.discard()
            _announce("swap", SwapStep.BLOB)
            if partial.is_open:
                partial.place(blob)
            _announce("swap", SwapStep.RECORD)
            record = record.after(self._decode(self.record_path(key)))
            self._encode(key, record)
        return record

    def set_pinned(self, key: str, *, is_pinned: bool) -> None:
        """Pin or unpin a source: its image is kept, of whatever version."""
        self.update(key, lambda record: msgspec.structs.replace(record, pinned=is_pinned))

    # What is there

    def known_sources(self) -> dict[str, SourceRecord]:
        """Return every record that can be read, by key, whether or not its image is there."""
        records = {}
        # There is no directory before the first image.
        with storage_errors("read", self.sources_dir), contextlib.suppress(FileNotFoundError):
            for path in self.sources_dir.iterdir():
                if path.suffix == ".json" and not path.name.startswith(atomic.TEMP_PREFIX):
                    records[path.stem] = self._decode(path)
        return {key: record for key, record in records.items() if record is not None}

    def blobs(self) -> list[Blob]:
        """Return every image's file, by name; what is no image's is left out."""
        return list_blobs(self.blobs_dir)

    # Removal; the caller holds the store's lock

    def drop(self, blob: Blob) -> None:
        """Remove an image, and the records of sources that name no other image.

        Other records stay as they are: on a full disk they could not be written. `forget_lost`
        cleans them up.

        Raises:
            ImageStorageError: the host refused; the next sweep removes the rest.
        """
        name = blob.path.name
        records = self.known_sources()
        with storage_errors("remove", blob.path):
            _announce("removal", RemovalStep.RECORDS)
            for key, record in records.items():
                if all(version.blob_name == name for version in record.versions):
                    self.record_path(key).unlink(missing_ok=True)
            _announce("removal", RemovalStep.BLOB)
            blob.path.unlink(missing_ok=True)

    def forget_lost(self) -> None:
        """Remove missing and damaged images from the records, except of sources that are pinned."""
        for key, record in self.known_sources().items():
            found = self.read_record(key)
            if found is None and not record.pinned:
                with storage_errors("remove", self.record_path(key)):
                    self.record_path(key).unlink(missing_ok=True)
            elif found is not None and found != record:
                try:
                    self._encode(key, found)
                except ImageStorageError as exc:
                    # The disk may be full; the sweep must go on.
                    log.warning("image record not updated", extra={"error": str(exc)})

    def _encode(self, key: str, record: SourceRecord) -> None:
        try:
            atomic.write_atomic(
                self.record_path(key), msgspec.json.encode(record), mode=0o600, is_durable=True
            )
        except HostError as exc:
            raise ImageStorageError(str(exc), hint=exc.hint) from exc

    def _decode(self, path: Path) -> SourceRecord | None:
        try:
            record = msgspec.json.decode(path.read_bytes(), type=SourceRecord)
        except FileNotFoundError:
            return None
        except (OSError, *DECODE_ERRORS) as exc:
            # An image without a record is downloaded again, which fixes this.
            log.warning("unreadable image record", extra={"path": str(path), "error": str(exc)})
            return None
        return record if record.version == RECORD_VERSION else None


def _announce(kind: str, step: StrEnum) -> None:
    """Log the next step, so that a test can end the process there."""
    log.debug("%s step", kind, extra={"step": step.value})
