"""What the image cache keeps: looked at, pinned, swept, verified.

Owns the view of the cache that joins files, records and the VMs that run on them, and every removal
of an image. Does not own the rules (`eviction`), the files' layout (`store`) nor downloads
(`cache`). Works beside any number of processes that fetch, start and sweep.

In use is a file with a second name, that of a VM's base (`base`): found, never counted.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from qemu_node.config.images import ImagesConfig
from qemu_node.errors import ImageError
from qemu_node.host.files.space import read_space
from qemu_node.images.errors import ImageInUseError, ImageStorageError, UnsafeImageError
from qemu_node.images.format import imagefile
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.format.qemuimg import check_image
from qemu_node.images.prefetch import prefetched_keys
from qemu_node.images.source.checksum import Algorithm
from qemu_node.images.source.credentials import CredentialStore
from qemu_node.images.store import litter
from qemu_node.images.store.base import find_users
from qemu_node.images.store.eviction import (
    CachedBlob,
    Eviction,
    Limits,
    plan_eviction,
    plan_refresh,
    plan_room,
)
from qemu_node.images.store.keptimage import KeptImage, KeptSource, RemovedImage
from qemu_node.images.store.partial import remove
from qemu_node.images.store.record import SourceRecord
from qemu_node.images.store.store import Blob, ImageStore
from qemu_node.units import Share

log = logging.getLogger(__name__)

CheckImage = Callable[[Path, ImageFormat], Awaitable[None]]
"""Judges an image's structure. Raises UnsafeImageError, or MissingPartError where it cannot."""


class ImageKeeper:
    """The images of one cache. Methods block for a few file operations but `verify`."""

    def __init__(
        self,
        images_dir: Path,
        vm_data_dir: Path,
        config: ImagesConfig,
        *,
        reserve: Share = Share(),  # noqa: B008 - frozen
        check: CheckImage = check_image,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep what is in `images_dir` for the VMs whose directories are below `vm_data_dir`.

        No VM starts with less free space than `reserve`: that much is a low mark, too.

        Raises:
            ConfigError: `images.prefetch` names something that cannot be fetched.
        """
        self._store = ImageStore(images_dir)
        self._vm_data_dir = vm_data_dir
        self._config = config
        self._prefetched = prefetched_keys(config.prefetch, CredentialStore(config.credentials))
        self._reserve = reserve
        self._check = check
        self._clock = clock

    def images(self) -> list[KeptImage]:
        """Return what the cache holds, by URL; the outdated ones come last.

        Raises:
            ImageStorageError: it cannot be read.
        """
        records = self._store.known_sources()
        users = find_users(self._vm_data_dir)
        images = [
            KeptImage(
                blob=blob,
                sources=self._sources_of(blob, records),
                earlier_of=_earlier_of(blob, records),
                users=users.get(blob.file_id, ()),
            )
            for blob in self._store.blobs()
        ]
        return sorted(images, key=lambda image: (image.is_outdated, not image.sources, image.label))

    def pin(self, image: KeptImage, *, is_pinned: bool) -> None:
        """Keep what the sources of an image give, whatever version that is; or no longer.

        Raises:
            ImageError: no source gives it any more.
            ImageStorageError: the host refused.
        """
        if not image.sources:
            raise ImageError(
                f"image {image.digest} is outdated: its source gives another one",
                hint="pull and pin that one; VMs that run keep theirs in any case",
            )
        for source in image.sources:
            self._store.set_pinned(source.key, is_pinned=is_pinned)

    def touch(self, image: KeptImage) -> None:
        """Count an image as used now.

        Raises:
            ImageStorageError: the host refused.
        """
        self._store.set_last_used(image.blob, self._clock())

    def remove(self, wanted: KeptImage, *, force: bool) -> None:
        """Remove an image from the cache; VMs that run on it keep it by their own name for it.

        Raises:
            ImageInUseError: VMs run on it, it is pinned or prefetched, and `force` is not set.
            ImageError: it is gone already.
            ImageStorageError: the host refused.
        """
        with self._store.exclusive():
            for image in self.images():
                if image.blob.path == wanted.blob.path:
                    break
            else:
                raise ImageError(f"image {wanted.label} is not in the cache any more")
            if not force:
                _refuse_kept(image)
            self._store.drop(image.blob)

    def plan(self, *, everything: bool = False) -> list[RemovedImage]:
        """Return what a sweep would remove now; with `everything` also what was used lately.

        Raises:
            ImageStorageError, HostError: the cache cannot be read.
        """
        with litter.idle_parts(self._store) as parts:
            there = _Contents(self.images(), parts)
            return there.images_of(self._plan(there, everything=everything))

    def sweep(self, *, everything: bool = False) -> list[RemovedImage]:
        """Remove the images that are to go, and litter; return the images.

        With `everything` those that no VM uses, and that nobody keeps, go however lately used.

        Raises:
            ImageStorageError, HostError: the host refused.
        """
        self._store.prepare()
        with litter.idle_parts(self._store) as parts, self._store.exclusive():
            there = _Contents(self.images(), parts)
            now_s = self._clock()
            for blob in plan_refresh(list(map(_as_rules_see, there.images.values())), now_s):
                self._store.set_last_used(there.images[blob.name].blob, now_s)
            removed = self._evict(there, self._plan(there, everything=everything))
            self._store.forget_lost()
        if count := litter.clean(self._store, now_s):
            log.info("image cache cleaned", extra={"count": count})
        return removed

    def make_room(self, needed_bytes: int) -> None:
        """Remove what nobody uses until `needed_bytes` are free; nothing where that cannot be.

        For a download, whose source's lock the caller may hold, or a VM.

        Raises:
            ImageStorageError, HostError: the host refused.
        """
        if not self._store.blobs_dir.exists():
            return
        with litter.idle_parts(self._store) as parts, self._store.exclusive():
            there = _Contents(self.images(), parts)
            free_bytes = read_space(self._store.root).free_bytes
            self._evict(there, plan_room(there.blobs, free_bytes, needed_bytes, self._clock()))

    async def verify(self, image: KeptImage) -> str | None:
        """Return what is wrong with an image's file, None if it is what it was.

        Reads all of it.

        Raises:
            ImageStorageError: it cannot be read.
            MissingPartError: the program that judges its structure is missing; its bytes are right.
        """
        path = image.blob.path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise ImageStorageError(f"cannot open {path}: {exc.strerror}") from exc
        try:
            found = await imagefile.digest(fd, Algorithm.SHA256)
            if found.digest != image.blob.sha256:
                return f"its content has changed: it is {found}"
            imagefile.inspect(fd, pinned=image.blob.format)
            await self._check(path, image.blob.format)
        except UnsafeImageError as exc:
            return str(exc)
        except OSError as exc:
            raise ImageStorageError(f"cannot read {path}: {exc.strerror}") from exc
        finally:
            os.close(fd)
        return None

    def _sources_of(self, blob: Blob, records: dict[str, SourceRecord]) -> tuple[KeptSource, ...]:
        """Return the sources of a whole blob; a damaged one has none, so it goes when unused."""
        found = [
            KeptSource(key=key, record=record, is_prefetched=key in self._prefetched)
            for key, record in records.items()
            if record.blob_name == blob.path.name and record.size_bytes == blob.size_bytes
        ]
        return tuple(sorted(found, key=lambda source: (source.record.url, source.key)))

    def _plan(self, there: "_Contents", *, everything: bool) -> list[Eviction]:
        space = read_space(self._store.root)
        limits = Limits(
            unused_for_s=0.0 if everything else self._config.unused_for_s,
            low_bytes=max(
                self._config.low_space_share.of(space.total_bytes),
                self._reserve.of(space.total_bytes),
            ),
            high_bytes=self._config.high_space_share.of(space.total_bytes),
        )
        return plan_eviction(there.blobs, space.free_bytes, limits, self._clock())

    def _evict(self, there: "_Contents", plan: Sequence[Eviction]) -> list[RemovedImage]:
        """Remove what is planned, and return the images that are gone.

        The caller holds the locks. A failure does not keep the others.
        """
        for part in there.parts_of(plan):
            remove(part.path)
            log.info("partial download removed", extra={"size_bytes": part.allocated_bytes})
        return [image for image in there.images_of(plan) if self._evict_image(image)]

    def _evict_image(self, doomed: RemovedImage) -> bool:
        """Remove one image; True if it is gone."""
        image = doomed.image
        fields = {
            "sha256": image.blob.sha256,
            "origins": list(image.origins),
            "reason": doomed.reason.value,
            "size_bytes": image.blob.allocated_bytes,
        }
        try:
            self._store.drop(image.blob)
        except ImageStorageError as exc:
            log.warning("image not removed", extra=fields | {"error": str(exc)})
            return False
        log.info("image removed", extra=fields)
        return True


class _Contents:
    """What takes room in a cache, and how the rules call it."""

    def __init__(self, images: Sequence[KeptImage], parts: Sequence[litter.Part]) -> None:
        self.images = {image.blob.path.name: image for image in images}
        self._parts = {f"partial/{part.key}": part for part in parts}

    @property
    def blobs(self) -> list[CachedBlob]:
        """All of it as the rules see it."""
        parts = [_part_as_rules_see(name, part) for name, part in self._parts.items()]
        return [*map(_as_rules_see, self.images.values()), *parts]

    def images_of(self, plan: Sequence[Eviction]) -> list[RemovedImage]:
        """Return the images of a plan."""
        return [
            RemovedImage(image=self.images[eviction.blob.name], reason=eviction.reason)
            for eviction in plan
            if eviction.blob.name in self.images
        ]

    def parts_of(self, plan: Sequence[Eviction]) -> list[litter.Part]:
        """Return the partial downloads of a plan."""
        names = [eviction.blob.name for eviction in plan]
        return [self._parts[name] for name in names if name in self._parts]


def _earlier_of(blob: Blob, records: dict[str, SourceRecord]) -> tuple[str, ...]:
    """Return the URLs of sources that gave a blob earlier, and whose jobs still ask for it."""
    return tuple(
        sorted(
            record.url
            for record in records.values()
            for version in record.earlier
            if version.is_asked_for
            and version.blob_name == blob.path.name
            and version.size_bytes == blob.size_bytes
        )
    )


def _as_rules_see(image: KeptImage) -> CachedBlob:
    return CachedBlob(
        name=image.blob.path.name,
        allocated_bytes=image.blob.allocated_bytes,
        last_used_s=image.blob.last_used_at,
        is_in_use=image.is_in_use,
        is_kept=image.is_pinned or image.is_prefetched,
        is_outdated=image.is_outdated,
    )


def _part_as_rules_see(name: str, part: litter.Part) -> CachedBlob:
    return CachedBlob(
        name=name,
        allocated_bytes=part.allocated_bytes,
        last_used_s=part.last_used_at,
        is_in_use=False,
        is_kept=False,
        is_outdated=False,
    )


def _refuse_kept(image: KeptImage) -> None:
    if image.is_in_use:
        who = ", ".join(image.users) or "another hard link"
        raise ImageInUseError(
            f"image {image.label} is in use by {who}",
            hint="--force removes it from the cache all the same; VMs that run keep it",
        )
    if image.is_pinned:
        raise ImageInUseError(
            f"image {image.label} is pinned", hint="unpin it first, or use --force"
        )
    if image.is_prefetched:
        raise ImageInUseError(
            f"image {image.label} is one of images.prefetch in node.toml",
            hint="take it out there: the driver would fetch it again",
        )
