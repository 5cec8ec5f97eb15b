"""One download, from its source to its place in the store.

Owns the order of its steps, the right to be one of a few at once, and the judgement of what came.
Does not own whether one is needed (`pull`), nor receiving (`fetch`, `intake`).
"""

import asyncio
import functools
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from qemu_node.errors import MissingPartError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.space import MakeRoom
from qemu_node.images.download.intake import Intake, Progress
from qemu_node.images.download.remote import Located, Remote, locate
from qemu_node.images.errors import (
    ChecksumMismatchError,
    ImageDownloadError,
    ImageStorageError,
    UnsafeImageError,
)
from qemu_node.images.format import imagefile
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.format.qemuimg import check_image
from qemu_node.images.http.address import AddressPolicy
from qemu_node.images.http.answer import Validators
from qemu_node.images.http.fetch import Resume, download, fetch_small
from qemu_node.images.http.request import FetchLimits
from qemu_node.images.source.checksum import Algorithm, Checksum
from qemu_node.images.store.partial import PartialFile, Room
from qemu_node.images.store.record import SourceRecord
from qemu_node.images.store.store import ImageStore
from qemu_node.units import Share

log = logging.getLogger(__name__)


class PullStep(StrEnum):
    """The steps of a download, in order; each is announced in the log when it begins."""

    LOCATE = "locate"
    FETCH = "fetch"
    BEGIN = "begin"
    FINISH = "finish"
    JUDGE = "judge"
    PLACE = "place"
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullLimits:
    """What a pull may take."""

    max_bytes: int
    """Of a download, and of the disk that it describes."""
    ttl_s: float = 300.0
    """For so long after its answer a source is not asked again."""
    downloads: int = 4
    """At once."""
    reserve: Share = field(default_factory=Share)
    """What of the file system stays free."""
    fetch: FetchLimits = field(default_factory=FetchLimits)
    addresses: AddressPolicy = field(default_factory=AddressPolicy)


class Courier:
    """Delivers images into one store."""

    def __init__(
        self,
        store: ImageStore,
        *,
        limits: PullLimits,
        make_room: MakeRoom,
        clock: Callable[[], float],
    ) -> None:
        """Deliver into `store`; `clock` is Unix time."""
        self._make_room = make_room
        self._store = store
        self._limits = limits
        self._clock = clock
        self._slots = asyncio.Semaphore(limits.downloads)
        self._fetch_small = functools.partial(
            fetch_small, limits=limits.fetch, addresses=limits.addresses
        )

    async def deliver(
        self,
        remote: Remote,
        known: SourceRecord | None,
        wanted: Checksum | None,
        progress: Progress,
    ) -> SourceRecord:
        """Return the record of what the source gives: `known` again, or a new image in place.

        The caller holds the lock of `remote`.

        Args:
            remote: The source.
            known: What is cached of it, if the source may answer that nothing has changed.
            wanted: What a checksum asks for, of the bytes as served.
            progress: Told how far it is.

        Raises:
            As `Puller.pull`.
        """
        announce(PullStep.LOCATE)
        version = None if known is None else known.etag
        located = await locate(remote, self._fetch_small, known=version)
        if located is None:
            assert known is not None
            return await self._confirmed(remote, known)
        if located.version is not None:
            known = None
        _compare(remote, wanted, located.checksum)
        asked = tuple(checksum for checksum in (wanted, located.checksum) if checksum is not None)
        errand = _Errand(remote, located, known, asked, progress)
        slot = _Slot(self._slots)
        may_resume = True
        try:
            if known is None:
                await slot.take()
            while True:
                try:
                    return await self._take_in(errand, slot, may_resume=may_resume)
                except _NoSlotError:
                    await slot.take()
                except _ResumedInVainError as exc:
                    log.warning(
                        "download begins again",
                        extra={"url": str(remote), "error": str(exc.__cause__)},
                    )
                    may_resume = False
        finally:
            slot.release()

    async def _take_in(self, errand: "_Errand", slot: "_Slot", *, may_resume: bool) -> SourceRecord:
        """Make one download, or the rest of one, and put it in place."""
        remote, known = errand.remote, errand.known
        intake = await self._intake(errand, slot)
        resume: Resume | None = None
        is_broken = False
        try:
            resume = await intake.resume() if may_resume else None
            announce(PullStep.FETCH)
            validators = await download(
                errand.located.file,
                intake,
                max_bytes=self._limits.max_bytes,
                known=_validators_of(known),
                resume=resume,
                limits=self._limits.fetch,
                addresses=self._limits.addresses,
            )
            if known is not None and validators is None:
                return await self._confirmed(remote, known)
            announce(PullStep.FINISH)
            await intake.finish()
            announce(PullStep.JUDGE)
            record = self._judge(errand, intake.partial, validators or Validators())
            await _ask_qemu_img(intake.partial, record.format)
            announce(PullStep.PLACE)
            record = await to_the_end(self._store.place, remote.key, intake.partial, record)
        except (UnsafeImageError, ChecksumMismatchError) as exc:
            if resume is not None:
                # The fault may be in what an earlier process left, not in what the source has.
                raise _ResumedInVainError from exc
            if isinstance(exc, ChecksumMismatchError):
                raise
            raise UnsafeImageError(f"image {remote} is refused: {exc}", hint=exc.hint) from exc
        except (ImageDownloadError, _NoSlotError, asyncio.CancelledError):
            is_broken = True
            raise
        finally:
            await finish(intake.close(keep=is_broken))
        log.info(
            "image fetched",
            extra={"url": str(remote), "sha256": record.sha256, "size_bytes": record.size_bytes},
        )
        return record

    async def _intake(self, errand: "_Errand", slot: "_Slot") -> Intake:
        async def admit() -> None:
            await slot.take_now()
            announce(PullStep.BEGIN)

        path = self._store.partial_path(errand.remote.key)
        usage = await to_the_end(shutil.disk_usage, path.parent)
        return Intake(
            path,
            url=str(errand.remote),
            algorithms=frozenset(checksum.algorithm for checksum in errand.asked),
            max_bytes=self._limits.max_bytes,
            room=Room(reserve_bytes=self._limits.reserve.of(usage.total), make=self._make_room),
            progress=errand.progress,
            admit=admit,
        )

    def _judge(
        self, errand: "_Errand", partial: PartialFile, validators: Validators
    ) -> SourceRecord:
        """Return the record of a complete download, if it is the right one and safe to open."""
        for wanted in errand.asked:
            if (actual := partial.checksum(wanted.algorithm)) != wanted:
                raise _mismatch(errand.remote, actual, wanted)
        info = imagefile.inspect(partial.fileno(), max_virtual_size_bytes=self._limits.max_bytes)
        content = partial.content_checksum().digest
        is_packed = partial.packing is not None
        has_sha512 = is_packed or any(c.algorithm is Algorithm.SHA512 for c in errand.asked)
        version = errand.located.version
        now_s = self._clock()
        return SourceRecord(
            url=str(errand.remote),
            sha256=content,
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

    async def _confirmed(self, remote: Remote, known: SourceRecord) -> SourceRecord:
        """Write down that the source still gives what is cached."""
        now_s = self._clock()
        return await self.note(
            remote, known, lambda record: msgspec.structs.replace(record, checked_at=now_s)
        )

    async def note(
        self,
        remote: Remote,
        record: SourceRecord,
        change: Callable[[SourceRecord], SourceRecord],
    ) -> SourceRecord:
        """Write down what was learnt of a source, and return its record as changed.

        Where that cannot be written the image is as good as before.
        """
        try:
            await to_the_end(self._store.update, remote.key, change)
        except ImageStorageError as exc:
            log.warning("image record not updated", extra={"url": str(remote), "error": str(exc)})
        return change(record)


@dataclass(frozen=True, slots=True)
class _Errand:
    """What one delivery is about."""

    remote: Remote
    located: Located
    known: SourceRecord | None
    asked: tuple[Checksum, ...]
    progress: Progress


class _ResumedInVainError(Exception):
    """What came of going on with an earlier process's bytes is not the image."""


class _NoSlotError(Exception):
    """As many downloads as allowed are under way."""


class _Slot:
    """One of the downloads at once.

    A question whether an image has changed needs none: it would otherwise wait for hours behind
    downloads, and a VM whose image is cached with it. Only if there is something to download it
    needs one at once, or comes back when there is one.
    """

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._is_held = False

    async def take(self) -> None:
        await self._slots.acquire()
        self._is_held = True

    async def take_now(self) -> None:
        if not self._is_held:
            if self._slots.locked():
                raise _NoSlotError
            await self.take()

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._slots.release()


def _compare(remote: Remote, wanted: Checksum | None, offered: Checksum | None) -> None:
    """Raise where a registry names another file than is wanted, before that is downloaded."""
    if wanted is None or offered is None or wanted.algorithm is not offered.algorithm:
        return
    if wanted != offered:
        raise _mismatch(remote, offered, wanted)


def _mismatch(remote: Remote, actual: Checksum, wanted: Checksum) -> ChecksumMismatchError:
    return ChecksumMismatchError(
        f"{remote} is not the image that its checksum names: got {actual}, expected {wanted}"
    )


async def _ask_qemu_img(partial: PartialFile, image_format: ImageFormat) -> None:
    """Raise where qemu-img finds the image corrupt; a node without it goes by the header alone."""
    try:
        await check_image(partial.content_path, image_format)
    except MissingPartError as exc:
        log.warning("image not checked by qemu-img", extra={"error": exc.explain()})


def announce(step: PullStep) -> None:
    """Say what comes next, so that a test can end the process there."""
    log.debug("pull step", extra={"step": step.value})


def _validators_of(record: SourceRecord | None) -> Validators | None:
    if record is None:
        return None
    return Validators(etag=record.etag, last_modified=record.last_modified)
