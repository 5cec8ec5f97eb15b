"""Bringing one source's image up to date: serve what is there, ask again, or download.

Owns that decision and its execution under the source's lock, which makes one download of any
number of processes' wishes. Does not own sharing among the waiters of one process (`cache`).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

import msgspec

from qemu_node.errors import ImageError
from qemu_node.host.threads import to_the_end
from qemu_node.images import imagefile
from qemu_node.images.checksum import Algorithm, Checksum, find_in_sums
from qemu_node.images.errors import (
    ChecksumMismatchError,
    ImageDownloadError,
    ImageRefusedError,
    ImageStorageError,
    UnsafeImageError,
)
from qemu_node.images.fetch import FetchLimits, Validators, download, fetch_text
from qemu_node.images.partial import PartialFile
from qemu_node.images.source import UrlSource
from qemu_node.images.store import ImageStore, SourceRecord

log = logging.getLogger(__name__)

UNVALIDATED_TTL_S = 3600.0
"""How long an image is used unasked whose source sends neither ETag nor Last-Modified."""

_LOCK_POLL_S = 0.25


class Step(Enum):
    """What a pull does about a source."""

    SERVE = auto()
    """Use what is cached, without asking."""
    REVALIDATE = auto()
    """Fetch it if it has changed."""
    DOWNLOAD = auto()


@dataclass(slots=True)
class Progress:
    """How far a download is, for those who wait for it."""

    is_downloading: bool = False
    done_bytes: int = 0
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """An image that is in the cache, and what the task's owner should know about it."""

    record: SourceRecord
    note: str | None = None


def plan_pull(record: SourceRecord | None, wanted: Checksum | None, now_s: float) -> Step:
    """Decide what to do about a source of which `record` is cached. Pure."""
    if record is None:
        return Step.DOWNLOAD
    if wanted is not None:
        return Step.SERVE if record.checksum(wanted.algorithm) == wanted else Step.DOWNLOAD
    if record.etag is not None or record.last_modified is not None:
        return Step.REVALIDATE
    # A clock that was set back makes an age negative: then it says nothing.
    is_recent = 0 <= now_s - record.checked_at < UNVALIDATED_TTL_S
    return Step.SERVE if is_recent else Step.DOWNLOAD


class Puller:
    """Pulls sources into one store."""

    def __init__(
        self,
        store: ImageStore,
        *,
        max_bytes: int,
        limits: FetchLimits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Pull into `store`; `max_bytes` bounds a download and the disk that it describes."""
        self._store = store
        self._max_bytes = max_bytes
        self._limits = limits
        self._clock = clock

    async def pull(
        self, source: UrlSource, checksum: Checksum | UrlSource | None, progress: Progress
    ) -> Pulled:
        """Return the image at `source` once it is in the cache, verified against `checksum`.

        Where the source cannot be had, that is the cached image with a note, unless a checksum asks
        for another.

        Raises:
            ImageDownloadError, ImageRefusedError: it did not arrive and none can be used instead.
            ChecksumMismatchError: it is not what `checksum` says.
            UnsafeImageError: it must not be opened.
            ImageStorageError: the cache cannot take it.
        """
        await to_the_end(self._store.prepare)
        lock = self._store.lock(source.key())
        while not lock.try_acquire():
            # Another process fetches it, or another wish of this one.
            progress.done_bytes = self._store.partial_bytes(source.key())
            progress.is_downloading = progress.done_bytes > 0
            await asyncio.sleep(_LOCK_POLL_S)
        try:
            progress.is_downloading = False
            return await self._pull_locked(source, checksum, progress)
        finally:
            lock.release()

    async def _pull_locked(
        self, source: UrlSource, checksum: Checksum | UrlSource | None, progress: Progress
    ) -> Pulled:
        record = await to_the_end(self._store.read_record, source.key())
        wanted, note = await self._wanted(source, checksum, record)
        if record is not None and wanted is not None:
            record = await self._with_digest(record, wanted.algorithm)
        step = plan_pull(record, wanted, self._clock())
        if step is not Step.SERVE:
            known = record if step is Step.REVALIDATE else None
            try:
                record = await self._fetch(source, known, wanted, progress)
            except (ImageDownloadError, ImageRefusedError, ImageStorageError) as exc:
                if record is None or wanted is not None or _is_denial(exc):
                    raise
                return Pulled(record=record, note=_stale_note(record, exc))
        assert record is not None  # SERVE is planned only where there is one.
        if isinstance(checksum, UrlSource) and record.sums_key != checksum.key():
            record = msgspec.structs.replace(record, sums_key=checksum.key())
            await self._remember(source, record)
        return Pulled(record=record, note=note)

    async def _wanted(
        self,
        source: UrlSource,
        checksum: Checksum | UrlSource | None,
        record: SourceRecord | None,
    ) -> tuple[Checksum | None, str | None]:
        """Return the digest that the image must have, and a note where an old answer stands in."""
        if not isinstance(checksum, UrlSource):
            return checksum, None
        try:
            text = await fetch_text(checksum, limits=self._limits)
        except (ImageDownloadError, ImageRefusedError) as exc:
            if record is None or record.sums_key != checksum.key() or _is_denial(exc):
                raise
            return record.checksum(Algorithm.SHA256), _stale_note(record, exc)
        return find_in_sums(text, source.file_name, str(checksum)), None

    async def _with_digest(self, record: SourceRecord, algorithm: Algorithm) -> SourceRecord:
        """Return `record` with its digest in `algorithm`, read from the image where not known."""
        if record.checksum(algorithm) is not None:
            return record
        path = self._store.blob_path(record)
        try:
            with path.open("rb") as file:
                checksum = await imagefile.digest(file.fileno(), algorithm)
        except OSError as exc:
            raise ImageStorageError(f"cannot read {path}: {exc.strerror}") from exc
        return msgspec.structs.replace(record, sha512=checksum.digest)

    async def _fetch(
        self,
        source: UrlSource,
        known: SourceRecord | None,
        wanted: Checksum | None,
        progress: Progress,
    ) -> SourceRecord:
        """Return the record of what the source gives: `known` again, or a new image in place."""
        algorithms = {Algorithm.SHA256} | ({wanted.algorithm} if wanted else set())
        sink = _PartialSink(lambda: self._new_partial(source, algorithms), progress)
        try:
            validators = await download(
                source,
                sink,
                max_bytes=self._max_bytes,
                known=_validators_of(known),
                limits=self._limits,
            )
            if known is not None and validators is None:
                record = msgspec.structs.replace(known, checked_at=self._clock())
                await self._remember(source, record)
                return record
            record = self._judge(source, sink.partial, wanted, validators or Validators())
            await to_the_end(self._store.place, source.key(), sink.partial, record)
        finally:
            sink.discard()
        log.info(
            "image fetched",
            extra={"url": source.shown, "sha256": record.sha256, "size_bytes": record.size_bytes},
        )
        return record

    def _judge(
        self,
        source: UrlSource,
        partial: PartialFile,
        wanted: Checksum | None,
        validators: Validators,
    ) -> SourceRecord:
        """Return the record of a complete download, if it is the right one and safe to open."""
        if wanted is not None and (actual := partial.checksum(wanted.algorithm)) != wanted:
            raise ChecksumMismatchError(
                f"{source} is not the image that its checksum names: got {actual}, "
                f"expected {wanted}",
            )
        try:
            info = imagefile.inspect(partial.fileno(), max_virtual_size_bytes=self._max_bytes)
        except UnsafeImageError as exc:
            raise UnsafeImageError(f"image {source} is refused: {exc}", hint=exc.hint) from exc
        has_sha512 = wanted is not None and wanted.algorithm is Algorithm.SHA512
        now_s = self._clock()
        return SourceRecord(
            url=source.shown,
            sha256=partial.checksum(Algorithm.SHA256).digest,
            sha512=partial.checksum(Algorithm.SHA512).digest if has_sha512 else None,
            format=info.format,
            size_bytes=partial.size_bytes,
            virtual_size_bytes=info.virtual_size_bytes,
            etag=validators.etag,
            last_modified=validators.last_modified,
            fetched_at=now_s,
            checked_at=now_s,
        )

    async def _remember(self, source: UrlSource, record: SourceRecord) -> None:
        """Write down a later answer of the source; without it the image is as good as before."""
        try:
            await to_the_end(self._store.write_record, source.key(), record)
        except ImageStorageError as exc:
            log.warning("image record not updated", extra={"url": source.shown, "error": str(exc)})

    def _new_partial(self, source: UrlSource, algorithms: set[Algorithm]) -> PartialFile:
        return PartialFile(self._store.partial_path(source.key()), algorithms)


class _PartialSink:
    """Takes a download into a partial file, which it makes when there is something to take."""

    def __init__(self, make: Callable[[], PartialFile], progress: Progress) -> None:
        self._make = make
        self._progress = progress
        self._partial: PartialFile | None = None

    @property
    def partial(self) -> PartialFile:
        """The file; there is one once a download has begun."""
        assert self._partial is not None
        return self._partial

    async def expect(self, total_bytes: int | None) -> None:
        self._progress.total_bytes = total_bytes
        self._progress.done_bytes = 0
        self._progress.is_downloading = True
        self._partial = self._make()
        if total_bytes is not None:
            await to_the_end(self._partial.expect, total_bytes)

    async def write(self, chunk: bytes) -> None:
        await to_the_end(self.partial.write, chunk)
        self._progress.done_bytes = self.partial.size_bytes

    def discard(self) -> None:
        if self._partial is not None:
            self._partial.discard()


def _validators_of(record: SourceRecord | None) -> Validators | None:
    if record is None:
        return None
    return Validators(etag=record.etag, last_modified=record.last_modified)


def _is_denial(exc: ImageError) -> bool:
    return isinstance(exc, ImageRefusedError) and exc.is_denial


def _stale_note(record: SourceRecord, exc: ImageError) -> str:
    fetched = datetime.fromtimestamp(record.fetched_at, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"using the cached image of {fetched}: {exc}"
