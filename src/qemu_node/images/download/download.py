"""One download, from its source to its place in the store.

Owns the order of its steps, the limit on downloads at once, and the check of what arrived. Does not
own whether a download is needed (`pull`), the transfer (`http`) nor writing it (`writer`).
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from qemu_node.errors import MissingPartError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.space import MakeRoom, read_space
from qemu_node.images.download.writer import DownloadWriter, Progress
from qemu_node.images.errors import ChecksumMismatchError, ImageDownloadError, UnsafeImageError
from qemu_node.images.format import imagefile
from qemu_node.images.format.qemuimg import check_image
from qemu_node.images.http.answer import Validators
from qemu_node.images.http.httpsettings import HttpSettings
from qemu_node.images.http.small import fetch_small
from qemu_node.images.http.transfer import Resume, transfer
from qemu_node.images.source.checksum import Algorithm, Checksum, require_equal
from qemu_node.images.source.name import OciSource, S3Source, UrlSource
from qemu_node.images.source.remote import Located, Remote, url_file
from qemu_node.images.store.partialfile import DiskLimits, PartialFile
from qemu_node.images.store.sourcerecord import SourceRecord
from qemu_node.images.store.store import ImageStore
from qemu_node.units import Share

log = logging.getLogger(__name__)


class DownloadStep(StrEnum):
    """The steps of a download, in order; each is announced in the log when it begins."""

    LOCATE = "locate"
    FETCH = "fetch"
    BEGIN = "begin"
    FINISH = "finish"
    CHECK = "check"
    PLACE = "place"
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullLimits:
    """How large a download may be, how many run at once, and how often a source is asked."""

    max_bytes: int
    """The largest download, and the largest virtual size of a disk."""
    ttl_s: float = 300.0
    """How long an answer of a source counts: until then it is not asked again."""
    downloads: int = 4
    """How many run at once."""
    reserve: Share = field(default_factory=Share)
    """How much of the file system stays free."""
    http: HttpSettings = field(default_factory=HttpSettings)


class Downloader:
    """Downloads images into one store, a few at once."""

    def __init__(
        self,
        store: ImageStore,
        *,
        limits: PullLimits,
        make_room: MakeRoom,
        clock: Callable[[], float],
    ) -> None:
        """Download into `store`; `clock` is Unix time."""
        self.store = store
        self.limits = limits
        self.make_room = make_room
        self.clock = clock
        self.slots = asyncio.Semaphore(limits.downloads)

    async def download(
        self,
        remote: Remote,
        known: SourceRecord | None,
        wanted: Checksum | None,
        progress: Progress,
    ) -> SourceRecord | None:
        """Put the image of a source in the store and return its record; None if it is `known`.

        The caller holds the lock of `remote`.

        Args:
            remote: The source.
            known: The record of the cached image, if the source may answer that it has not changed.
            wanted: The digest that the file must have as it is served.
            progress: Updated as bytes arrive.

        Raises:
            As `Puller.pull`.
        """
        announce(DownloadStep.LOCATE)
        version = None if known is None else known.etag
        located = await _locate(remote, self.limits.http, known=version)
        if located is None:
            return None
        if located.version is not None:
            known = None
        offered = located.checksum
        if wanted and offered and wanted.algorithm is offered.algorithm:
            # Before the file is downloaded.
            require_equal(str(remote), offered, wanted)
        checksums = tuple(checksum for checksum in (wanted, offered) if checksum is not None)
        return await Download(self, remote, located, known, checksums, progress).run()


class Download:
    """One download. It holds one of the slots of its `Downloader` while bytes arrive."""

    def __init__(
        self,
        downloader: Downloader,
        remote: Remote,
        located: Located,
        known: SourceRecord | None,
        checksums: tuple[Checksum, ...],
        progress: Progress,
    ) -> None:
        self._downloader = downloader
        self._limits = downloader.limits
        self._remote = remote
        self._located = located
        self._known = known
        self._checksums = checksums
        self._progress = progress
        self._has_slot = False

    async def run(self) -> SourceRecord | None:
        """Download the image and return its record; None if it has not changed."""
        may_resume = True
        try:
            if self._known is None:
                await self._take_slot()
            while True:
                try:
                    return await self._attempt(may_resume=may_resume)
                except _NoSlotError:
                    await self._take_slot()
                except _ResumeFailedError as exc:
                    extra = {"url": str(self._remote), "error": str(exc.__cause__)}
                    log.warning("download begins again", extra=extra)
                    may_resume = False
        finally:
            if self._has_slot:
                self._downloader.slots.release()

    async def _attempt(self, *, may_resume: bool) -> SourceRecord | None:
        """Download the file, or the rest of it, check it and put it in place."""
        store = self._downloader.store
        writer = await self._writer()
        resume: Resume | None = None
        is_interrupted = False
        try:
            resume = await writer.resume() if may_resume else None
            announce(DownloadStep.FETCH)
            validators = await transfer(
                self._located.file,
                writer,
                max_bytes=self._limits.max_bytes,
                known=_validators_of(self._known),
                resume=resume,
                http=self._limits.http,
            )
            if self._known is not None and validators is None:
                return None
            announce(DownloadStep.FINISH)
            await writer.finish()
            announce(DownloadStep.CHECK)
            record = await self._check(writer.partial, validators or Validators())
            announce(DownloadStep.PLACE)
            record = await to_the_end(store.place, self._remote.key, writer.partial, record)
        except (UnsafeImageError, ChecksumMismatchError) as exc:
            if resume is not None:
                # The fault may be in the bytes of an earlier process, not in the source's file.
                raise _ResumeFailedError from exc
            if isinstance(exc, ChecksumMismatchError):
                raise
            raise UnsafeImageError(
                f"image {self._remote} is refused: {exc}", hint=exc.hint
            ) from exc
        except (ImageDownloadError, _NoSlotError, asyncio.CancelledError):
            is_interrupted = True
            raise
        finally:
            await finish(writer.close(keep=is_interrupted))
        log.info(
            "image fetched",
            extra={
                "url": str(self._remote),
                "sha256": record.sha256,
                "size_bytes": record.size_bytes,
            },
        )
        return record

    async def _writer(self) -> DownloadWriter:
        path = self._downloader.store.partial_path(self._remote.key)
        space = await to_the_end(read_space, path.parent)
        return DownloadWriter(
            path,
            url=str(self._remote),
            algorithms=frozenset(checksum.algorithm for checksum in self._checksums),
            limits=DiskLimits(
                max_unpacked_bytes=self._limits.max_bytes,
                reserve_bytes=self._limits.reserve.of(space.total_bytes),
                make_room=self._downloader.make_room,
            ),
            progress=self._progress,
            before_writing=self._need_slot,
        )

    async def _check(self, partial: PartialFile, validators: Validators) -> SourceRecord:
        """Return the record of a complete download, if it is the right one and safe to open."""
        for wanted in self._checksums:
            require_equal(str(self._remote), partial.checksum(wanted.algorithm), wanted)
        info = imagefile.inspect(partial.fileno(), max_virtual_size_bytes=self._limits.max_bytes)
        try:
            await check_image(partial.content_path, info.format)
        except MissingPartError as exc:
            # The header was checked; a node without qemu-img uses the image all the same.
            log.warning("image not checked by qemu-img", extra={"error": exc.explain()})
        is_packed = partial.packing is not None
        has_sha512 = is_packed or any(c.algorithm is Algorithm.SHA512 for c in self._checksums)
        version = self._located.version
        now_s = self._downloader.clock()
        return SourceRecord(
            url=str(self._remote),
            signatures=(self._remote.signature,) if self._remote.signature else (),
            sha256=partial.content_checksum().digest,
            source_sha256=partial.checksum(Algorithm.SHA256).digest if is_packed else None,
            sha512=partial.checksum(Algorithm.SHA512).digest if has_sha512 else None,
            format=info.format,
            size_bytes=partial.size_bytes,
            virtual_size_bytes=info.virtual_size_bytes,
            etag=version or validators.etag,
            last_modified=None if version else validators.last_modified,
            fetched_at=now_s,
            checked_at=now_s,
        )

    async def _need_slot(self) -> None:
        """Take a slot, if there is a free one, before the first bytes are written.

        The question whether an image has changed needs no slot: behind downloads it would wait for
        hours, and with it a VM whose image is cached. If it has changed and no slot is free, the
        request is given up and made again when there is one.
        """
        if not self._has_slot:
            if self._downloader.slots.locked():
                raise _NoSlotError
            await self._take_slot()
        announce(DownloadStep.BEGIN)

    async def _take_slot(self) -> None:
        await self._downloader.slots.acquire()
        self._has_slot = True


class _ResumeFailedError(Exception):
    """A resumed download is not the image that was asked for."""


class _NoSlotError(Exception):
    """As many downloads run as are allowed."""


async def _locate(remote: Remote, http: HttpSettings, *, known: str | None) -> Located | None:
    """Return the file that `remote` names now; None if that is still the version `known`."""
    match remote.source:
        case UrlSource():
            return Located(file=url_file(remote.source, remote.credential))
        case S3Source():
            from qemu_node.images.source.s3 import s3_file

            return Located(file=s3_file(remote.source, remote.credential))
        case OciSource():
            from qemu_node.images.registry.oci import resolve_oci

            ask = functools.partial(fetch_small, http=http)
            return await resolve_oci(remote.source, remote.credential, fetch_small=ask, known=known)


def announce(step: DownloadStep) -> None:
    """Log the next step, so that a test can end the process there."""
    log.debug("download step", extra={"step": step.value})


def _validators_of(record: SourceRecord | None) -> Validators | None:
    if record is None:
        return None
    return Validators(etag=record.etag, last_modified=record.last_modified)
