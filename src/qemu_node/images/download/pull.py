"""Bringing the image of one source up to date: use the cached one, ask the source, or download.

Owns that decision, and acting on it under the source's lock: many processes that want the same
image make one download. Does not own sharing it inside a process (`cache`) nor the download itself
(`download`).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from qemu_node.errors import ImageError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.space import MakeRoom, make_no_room
from qemu_node.images.download.download import Downloader, DownloadStep, PullLimits, announce
from qemu_node.images.download.writer import Progress
from qemu_node.images.errors import ImageDownloadError, ImageRefusedError, ImageStorageError
from qemu_node.images.format import imagefile
from qemu_node.images.http.small import fetch_text
from qemu_node.images.source.checksum import Algorithm, Checksum, find_in_sums
from qemu_node.images.source.name import UrlSource
from qemu_node.images.source.remote import Remote, url_file
from qemu_node.images.store.partialfile import progress_at
from qemu_node.images.store.sourcerecord import SourceRecord, Version
from qemu_node.images.store.store import ImageStore

log = logging.getLogger(__name__)

_LOCK_POLL_S = 0.25
_FAILURE_TTL_S = 30.0
"""How long a failed source is not asked again if its cached image can be used."""


class Step(Enum):
    """What a pull does."""

    SERVE = auto()
    """Use the cached image without a request."""
    REVALIDATE = auto()
    """Download it if it has changed."""
    DOWNLOAD = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """An image that is in the cache, and a message about it for the task's owner."""

    version: Version
    note: str | None = None


def plan_pull(
    record: SourceRecord | None,
    wanted: Checksum | None,
    now_s: float,
    ttl_s: float,
    *,
    is_fixed: bool = False,
    is_proven: bool = True,
) -> Step:
    """Decide what to do about a source of which `record` is cached. Pure.

    Args:
        record: What is known of the source.
        wanted: A version with this digest is used, whatever the source serves now.
        now_s: Unix time.
        ttl_s: How long an answer of the source counts.
        is_fixed: The source names the same bytes for ever.
        is_proven: False for a presigned URL that the source has not answered yet: whoever made it
            up must not get the image that another signature opened.
    """
    if record is None:
        return Step.DOWNLOAD
    if not is_proven:
        if wanted is not None and record.checksum(wanted.algorithm) != wanted:
            return Step.DOWNLOAD
    elif wanted is not None:
        return Step.SERVE if record.find(wanted) is not None else Step.DOWNLOAD
    elif is_fixed or is_recent(record.checked_at, now_s, ttl_s):
        return Step.SERVE
    if record.etag is not None or record.last_modified is not None:
        return Step.REVALIDATE
    return Step.DOWNLOAD


def is_recent(then_s: float | None, now_s: float, ttl_s: float) -> bool:
    """Tell whether Unix time `then_s` is less than `ttl_s` ago. Pure."""
    # After a clock was set back the age is negative and means nothing.
    return then_s is not None and 0 <= now_s - then_s < ttl_s


class Puller:
    """Pulls sources into one store."""

    def __init__(
        self,
        store: ImageStore,
        *,
        limits: PullLimits,
        make_room: MakeRoom = make_no_room,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Pull into `store`; `make_room` is called in a thread, `clock` is Unix time."""
        self._store = store
        self._limits = limits
        self._clock = clock
        self._failures: dict[str, tuple[float, ImageError]] = {}
        """The last failures of sources whose cached image was used instead, by key."""
        self._downloader = Downloader(store, limits=limits, make_room=make_room, clock=clock)

    async def pull(
        self, remote: Remote, checksum: Checksum | Remote | None, progress: Progress
    ) -> Pulled:
        """Return the image of `remote` once it is in the cache, verified against `checksum`.

        If the source fails, that is the cached image with a note, unless a checksum asks for
        another one.

        Raises:
            ImageDownloadError, ImageRefusedError: it did not arrive, and no cached one can be used.
            ChecksumMismatchError: it is not what `checksum` says.
            UnsafeImageError: it must not be opened.
            ImageStorageError: the cache cannot store it.
        """
        await to_the_end(self._store.prepare)
        if not isinstance(checksum, Remote) and (served := await self._serve(remote, checksum)):
            return served
        lock = self._store.lock(remote.key)
        while not lock.try_acquire():
            # Another process downloads it, or another pull of this one.
            at = progress_at(self._store.partial_path(remote.key))
            progress.done_bytes, progress.total_bytes = at
            progress.is_downloading = progress.done_bytes > 0
            await asyncio.sleep(_LOCK_POLL_S)
        try:
            progress.is_downloading = False
            return await self._pull_locked(remote, checksum, progress)
        finally:
            announce(DownloadStep.RELEASE)
            lock.release()

    async def _serve(self, remote: Remote, wanted: Checksum | None) -> Pulled | None:
        """Return the cached image, if that needs no request.

        Without the lock: a download of another version may hold it for hours.
        """
        record = await to_the_end(self._store.read_record, remote.key)
        if record is None or self._plan(remote, record, wanted) is not Step.SERVE:
            return None
        version = await self._taken(remote, record, wanted, by_digest=wanted is not None)
        return Pulled(version=version)

    def _plan(self, remote: Remote, record: SourceRecord | None, wanted: Checksum | None) -> Step:
        return plan_pull(
            record,
            wanted,
            self._clock(),
            self._limits.ttl_s,
            is_fixed=remote.is_fixed,
            is_proven=_is_proven(remote, record),
        )

    async def _taken(
        self, remote: Remote, record: SourceRecord, wanted: Checksum | None, *, by_digest: bool
    ) -> Version:
        """Return the version that is used; note if a job has named it by its digest."""
        version = record if wanted is None else record.find(wanted)
        assert version is not None  # `plan_pull` has seen it, or it was just fetched.
        if by_digest and not version.by_digest:
            served = version.served_sha256
            await self._note(
                remote, record, lambda record: record.with_version(served, by_digest=True)
            )
        return version

    async def _pull_locked(
        self, remote: Remote, checksum: Checksum | Remote | None, progress: Progress
    ) -> Pulled:
        record = await to_the_end(self._store.read_record, remote.key)
        wanted, note = await self._wanted(remote, checksum, record)
        if record is not None and wanted is not None:
            record = await self._with_digests(remote, record, wanted)
        step = self._plan(remote, record, wanted)
        if step is not Step.SERVE:
            may_be_stale = wanted is None and _is_proven(remote, record)
            if record is not None and may_be_stale and (failure := self._failure(remote)):
                return Pulled(version=record, note=_stale_note(record, failure))
            known = record if step is Step.REVALIDATE else None
            try:
                fetched = await self._downloader.download(remote, known, wanted, progress)
            except (ImageDownloadError, ImageRefusedError, ImageStorageError) as exc:
                if record is None or not may_be_stale or _is_denial(exc):
                    raise
                self._failures[remote.key] = (self._clock(), exc)
                return Pulled(version=record, note=_stale_note(record, exc))
            self._failures.pop(remote.key, None)
            record = fetched or await self._confirm(remote, record)
        assert record is not None  # SERVE is planned only where there is one.
        version = await self._taken(
            remote, record, wanted, by_digest=isinstance(checksum, Checksum)
        )
        if isinstance(checksum, Remote) and note is None:
            await self._note_listed(remote, checksum, record, version)
        return Pulled(version=version, note=note)

    async def _confirm(self, remote: Remote, known: SourceRecord | None) -> SourceRecord:
        """Write down that the source still gives the cached image, `known`."""
        assert known is not None  # Otherwise an answer that nothing has changed is refused.
        now_s, signature = self._clock(), remote.signature
        return await self._note(
            remote,
            known,
            lambda record: record.confirmed(now_s, signature),
        )

    async def _note(
        self, remote: Remote, record: SourceRecord, change: Callable[[SourceRecord], SourceRecord]
    ) -> SourceRecord:
        """Change the record of a source, and return it as changed.

        If it cannot be written, the image can still be used.
        """
        try:
            await to_the_end(self._store.update, remote.key, change)
        except ImageStorageError as exc:
            log.warning("image record not updated", extra={"url": str(remote), "error": str(exc)})
        return change(record)

    def _failure(self, remote: Remote) -> ImageError | None:
        """Return the source's failure of a moment ago, instead of asking it again.

        A failure may take seconds, and not each of many starts should wait for it.
        """
        at_s, failure = self._failures.get(remote.key, (None, None))
        pause_s = min(_FAILURE_TTL_S, self._limits.ttl_s)
        return failure if is_recent(at_s, self._clock(), pause_s) else None

    async def _wanted(
        self, remote: Remote, checksum: Checksum | Remote | None, record: SourceRecord | None
    ) -> tuple[Checksum | None, str | None]:
        """Return the digest that the image must have, and a note if the SUMS file is an old one."""
        if not isinstance(checksum, Remote):
            return checksum, None
        listed = None if record is None else record.listed_by(checksum.key)
        if listed is not None and self._is_recent(listed.sums_checked_at):
            return listed.checksum(Algorithm.SHA256), None
        try:
            text = await self.read_sums(checksum)
        except (ImageDownloadError, ImageRefusedError) as exc:
            if listed is None or _is_denial(exc):
                raise
            return listed.checksum(Algorithm.SHA256), _stale_note(listed, exc)
        return find_in_sums(text, remote.source.file_name, str(checksum)), None

    async def read_sums(self, sums: Remote) -> str:
        """Return a SUMS file.

        Raises:
            ImageDownloadError, ImageRefusedError: it cannot be fetched.
        """
        assert isinstance(sums.source, UrlSource)  # A SUMS file is behind http(s).
        return await fetch_text(
            url_file(sums.source, sums.credential),
            http=self._limits.http,
        )

    async def _note_listed(
        self, remote: Remote, sums: Remote, record: SourceRecord, version: Version
    ) -> None:
        """Write down that a SUMS file lists the image, unless that was done recently."""
        if version.sums_key == sums.key and self._is_recent(version.sums_checked_at):
            return
        served, key, now_s = version.served_sha256, sums.key, self._clock()
        await self._note(remote, record, lambda record: record.with_listed(served, key, now_s))

    async def _with_digests(
        self, remote: Remote, record: SourceRecord, wanted: Checksum
    ) -> SourceRecord:
        """Return `record` with the digests that are needed to find `wanted`.

        Unknown ones are computed from the images, the newest first, once.
        """
        for version in record.versions:
            if record.find(wanted) is not None:
                break
            if version.checksum(wanted.algorithm) is None:
                record = await self._with_sha512(remote, record, version)
        return record

    async def _with_sha512(
        self, remote: Remote, record: SourceRecord, version: Version
    ) -> SourceRecord:
        found = await self._digest(version, Algorithm.SHA512)
        served = version.served_sha256
        return await self._note(
            remote, record, lambda record: record.with_version(served, sha512=found.digest)
        )

    async def _digest(self, version: Version, algorithm: Algorithm) -> Checksum:
        """Return the digest of a cached image that was not compressed."""
        path = self._store.blob_path(version)
        try:
            with path.open("rb") as file:
                return await imagefile.digest(file.fileno(), algorithm)
        except OSError as exc:
            raise ImageStorageError(f"cannot read {path}: {exc.strerror}") from exc

    def _is_recent(self, then_s: float | None) -> bool:
        return is_recent(then_s, self._clock(), self._limits.ttl_s)


def _is_proven(remote: Remote, record: SourceRecord | None) -> bool:
    """Tell whether the source has answered this URL, if it is presigned."""
    return remote.signature is None or (
        record is not None and remote.signature in record.signatures
    )


def _is_denial(exc: ImageError) -> bool:
    return isinstance(exc, ImageRefusedError) and exc.is_denial


def _stale_note(version: Version, exc: ImageError) -> str:
    fetched = datetime.fromtimestamp(version.fetched_at, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"using the cached image of {fetched}: {exc}"
