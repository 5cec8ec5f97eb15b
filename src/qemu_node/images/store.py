"""The image cache's files: where they are, which of them may be believed, who may touch them when.

Owns the layout below and the records in it. Does not own what is fetched (`pull`) nor when a file
goes: nothing here removes a placed image.

    <images>/blobs/sha256-<hex>.<format>   one image, complete, verified, 0444, never changed; its
                                           format is part of its name and so never decided again
    <images>/sources/<key>.json            SourceRecord: what the source last gave
    <images>/partial/<key>                 a download on its way; its writer holds the lock
    <images>/locks/<key>.lock              flock: the right to fetch this source and to write the
                                           two files above

`<key>` stands for a source with its credentials (`Remote.key`). A blob appears under its name
only complete and on stable storage; the record that names it is written afterwards. A
crash between the two leaves a blob that the next download of the same bytes takes over. The names
of blobs cannot be listed by others than the owner, since VMs of any user may read their content.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from qemu_node.errors import HostError
from qemu_node.host import files
from qemu_node.images.checksum import Algorithm, Checksum
from qemu_node.images.errors import ImageStorageError
from qemu_node.images.imagefile import ImageFormat
from qemu_node.images.partial import PartialFile

log = logging.getLogger(__name__)

RECORD_VERSION = 1


class SourceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a source last gave, and how to ask whether it would give the same again."""

    version: int = RECORD_VERSION
    url: str
    """Without user, password and query."""
    sha256: str
    """Of the image itself."""
    source_sha256: str | None = None
    """Of what was served, where that was compressed; else it is the image's."""
    sha512: str | None = None
    """Of what was served; known only where a checksum asked for it, or that was compressed."""
    format: ImageFormat
    size_bytes: int
    virtual_size_bytes: int
    etag: str | None = None
    last_modified: str | None = None
    sums_key: str | None = None
    """Key of the SUMS file that last listed this digest."""
    sums_checked_at: float | None = None
    """Unix time at which it was last read."""
    fetched_at: float
    """Unix time at which the image had arrived."""
    checked_at: float
    """Unix time at which the source last said that this is its image."""

    def checksum(self, algorithm: Algorithm) -> Checksum | None:
        """Return the digest of what was served, or None where it is not known."""
        sha256 = self.source_sha256 or self.sha256
        digest = sha256 if algorithm is Algorithm.SHA256 else self.sha512
        return None if digest is None else Checksum(algorithm, digest)


class ImageStore:
    """The cache's directories. Methods block for a few file operations."""

    def __init__(self, images_dir: Path) -> None:
        self._blobs = images_dir / "blobs"
        self._sources = images_dir / "sources"
        self._partials = images_dir / "partial"
        self._locks = images_dir / "locks"

    def prepare(self) -> None:
        """Make the directories that are missing.

        Raises:
            ImageStorageError: the host refused.
        """
        modes = {
            self._blobs: 0o711,
            self._sources: 0o700,
            self._partials: 0o700,
            self._locks: 0o700,
        }
        try:
            for directory, mode in modes.items():
                directory.mkdir(parents=True, exist_ok=True)
                directory.chmod(mode)
        except OSError as exc:
            raise ImageStorageError(f"cannot make {exc.filename}: {exc.strerror}") from exc

    def blob_path(self, record: SourceRecord) -> Path:
        """Return where the image of `record` is."""
        return self._blobs / f"sha256-{record.sha256}.{record.format}"

    def lock(self, key: str) -> files.FileLock:
        """Return the lock on a source, not yet taken."""
        return files.FileLock(self._locks / f"{key}.lock")

    def partial_path(self, key: str) -> Path:
        """Return where a source's download grows."""
        return self._partials / key

    def read_record(self, key: str) -> SourceRecord | None:
        """Return what is known of a source; None where its image is missing or not whole."""
        record = self._decode(self._sources / f"{key}.json")
        if record is None:
            return None
        try:
            info = self.blob_path(record).lstat()
        except OSError:
            return None
        if not stat.S_ISREG(info.st_mode) or info.st_size != record.size_bytes:
            log.warning("cached image is damaged", extra={"path": str(self.blob_path(record))})
            return None
        return record

    def write_record(self, key: str, record: SourceRecord) -> None:
        """Write down what a source gave. The caller holds its lock.

        Raises:
            ImageStorageError: the host refused; the former record stands.
        """
        path = self._sources / f"{key}.json"
        try:
            files.write_atomic(path, msgspec.json.encode(record), mode=0o600)
        except HostError as exc:
            raise ImageStorageError(str(exc), hint=exc.hint) from exc

    def place(self, key: str, partial: PartialFile, record: SourceRecord) -> None:
        """Put a verified download in place and write its record. The caller holds the lock.

        The same bytes from another source are there already: then that file stays, in use or not.

        Raises:
            ImageStorageError: the host refused; neither a blob nor a record was half written.
        """
        blob = self.blob_path(record)
        with contextlib.suppress(OSError):
            if blob.lstat().st_size == record.size_bytes:
                partial.discard()
        if partial.is_open:
            partial.place(blob)
        self.write_record(key, record)

    def records(self) -> Iterator[tuple[SourceRecord, Path]]:
        """Yield what is cached, by URL; sources whose image is missing are left out."""
        try:
            keys = [path.stem for path in self._sources.glob("*.json")]
        except OSError:
            return
        found = [record for key in keys if (record := self.read_record(key)) is not None]
        for record in sorted(found, key=lambda record: (record.url, record.fetched_at)):
            yield record, self.blob_path(record)

    def clean(self) -> int:
        """Remove what killed downloads left, and return how many; live ones are let be.

        The lock tells: who downloads holds it. Locks of sources that were never fetched go too.
        """
        keys = {path.stem for path in self._locks.glob("*.lock")}
        keys |= {path.name for path in self._partials.iterdir()}
        removed = 0
        for key in keys:
            lock = self.lock(key)
            if not lock.try_acquire():
                continue
            try:
                partial = self.partial_path(key)
                removed += os.path.lexists(partial)
                files.remove_tree(partial)
                if not (self._sources / f"{key}.json").exists():
                    lock.path.unlink(missing_ok=True)
            finally:
                lock.release()
        for stray in self._sources.glob(f"{files.TEMP_PREFIX}*"):
            stray.unlink(missing_ok=True)
        return removed

    def _decode(self, path: Path) -> SourceRecord | None:
        try:
            record = msgspec.json.decode(path.read_bytes(), type=SourceRecord)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as exc:
            # Without its record an image is fetched again, which mends this.
            log.warning("unreadable image record", extra={"path": str(path), "error": str(exc)})
            return None
        return record if record.version == RECORD_VERSION else None
