"""What the image cache keeps: list, pin, remove, sweep, verify.

Owns joining the files, the records and the VMs that use them into images, and every removal of an
image. Does not own the rules (`eviction`), the layout of the files (`store`) nor downloads
(`cache`). Other processes may download, start VMs and sweep at the same time.

A file with a second name, the link of a VM (`blob`), is in use.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from qemu_node.config.images import ImagesConfig
from qemu_node.errors import ImageError
from qemu_node.host.files.space import read_space
from qemu_node.images.errors import ImageStorageError, UnsafeImageError
from qemu_node.images.format import imagefile
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.format.qemuimg import check_image
from qemu_node.images.prefetch import prefetched_keys
from qemu_node.images.source.checksum import Algorithm
from qemu_node.images.source.credentials import CredentialStore
from qemu_node.images.store import litter
from qemu_node.images.store.blob import find_users, set_last_used
from qemu_node.images.store.eviction import (
    Evictable,
    Eviction,
    Limits,
    needs_refresh,
    plan_eviction,
    plan_room,
)
from qemu_node.images.store.keptimage import KeptImage, RemovedImage, kept_images
from qemu_node.images.store.partialfile import remove
from qemu_node.images.store.store import ImageStore
from qemu_node.units import Share

log = logging.getLogger(__name__)

CheckImage = Callable[[Path, ImageFormat], Awaitable[None]]
"""Checks an image's tables. Raises UnsafeImageError, or MissingPartError if it cannot check."""


class ImageKeeper:
    """The images of one cache. All methods but `verify` block for a few file operations."""

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
        """Manage the images in `images_dir`; the VMs' directories are below `vm_data_dir`.

        `reserve` is a low mark, too: no VM starts with less free space.

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
        """Return the images of the cache, by URL; the outdated ones come last.

        Raises:
            ImageStorageError: it cannot be read.
        """
        return kept_images(
            self._store.blobs(),
            self._store.known_sources(),
            find_users(self._vm_data_dir),
            self._prefetched,
        )

    def pin(self, image: KeptImage, *, is_pinned: bool) -> None:
        """Pin or unpin the sources of an image: their images are kept, of whatever version.

        Raises:
            ImageError: no source serves it any more.
            ImageStorageError: the host refused.
        """
        if not image.sources:
            raise ImageError(
                f"image {image.digest} is outdated: its source serves another one",
                hint="pull and pin that one; running VMs keep their image in any case",
            )
        for source in image.sources:
            self._store.set_pinned(source.key, is_pinned=is_pinned)

    def touch(self, image: KeptImage) -> None:
        """Count an image as used now.

        Raises:
            ImageStorageError: the host refused.
        """
        set_last_used(image.blob, self._clock())

    def remove(self, wanted: KeptImage, *, force: bool) -> None:
        """Remove an image from the cache; VMs that run on it keep it by their own link.

        Raises:
            ImageError: it is gone already; or VMs run on it, it is pinned or prefetched, and
                `force` is not set.
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
        """Return what a sweep would remove now; with `everything` also images used recently.

        Raises:
            ImageStorageError, HostError: the cache cannot be read.
        """
        with litter.idle_parts(self._store) as parts:
            return _images_of(self._plan([*self.images(), *parts], everything=everything))

    def sweep(self, *, everything: bool = False) -> list[RemovedImage]:
        """Remove images by the rules of eviction, and litter; return the removed images.

        With `everything` all images are removed that no VM uses and that are not kept.

        Raises:
            ImageStorageError, HostError: the host refused.
        """
        self._store.prepare()
        with litter.idle_parts(self._store) as parts, self._store.exclusive():
            images, now_s = self.images(), self._clock()
            for image in images:
                if needs_refresh(image, now_s):
                    set_last_used(image.blob, now_s)
            removed = self._evict(self._plan([*images, *parts], everything=everything))
            self._store.forget_lost()
        if count := litter.clean(self._store, now_s):
            log.info("image cache cleaned", extra={"count": count})
        return removed

    def make_room(self, needed_bytes: int) -> None:
        """Remove unused images until `needed_bytes` are free; none if that would not be enough.

        For a VM, or for a download, whose caller may hold the lock of its source.

        Raises:
            ImageStorageError, HostError: the host refused.
        """
        if not self._store.blobs_dir.exists():
            return
        with litter.idle_parts(self._store) as parts, self._store.exclusive():
            items: list[Evictable] = [*self.images(), *parts]
            free_bytes = read_space(self._store.root).free_bytes
            self._evict(plan_room(items, free_bytes, needed_bytes, self._clock()))

    async def verify(self, image: KeptImage) -> str | None:
        """Return what is wrong with an image's file, None if it is intact. Reads all of it.

        Raises:
            ImageStorageError: it cannot be read.
            MissingPartError: qemu-img, which checks its tables, is missing; its bytes are intact.
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

    def _plan(self, items: Sequence[Evictable], *, everything: bool) -> list[Eviction]:
        space = read_space(self._store.root)
        limits = Limits(
            unused_for_s=0.0 if everything else self._config.unused_for_s,
            low_bytes=max(
                self._config.low_space_share.of(space.total_bytes),
                self._reserve.of(space.total_bytes),
            ),
            high_bytes=self._config.high_space_share.of(space.total_bytes),
        )
        return plan_eviction(items, space.free_bytes, limits, self._clock())

    def _evict(self, plan: Sequence[Eviction]) -> list[RemovedImage]:
        """Remove what is planned, and return the images that are gone.

        The caller holds the locks. If one cannot be removed, the others are removed all the same.
        """
        for eviction in plan:
            if isinstance(part := eviction.item, litter.Part):
                remove(part.path)
                log.info("partial download removed", extra={"size_bytes": part.allocated_bytes})
        return [image for image in _images_of(plan) if self._evict_image(image)]

    def _evict_image(self, removed: RemovedImage) -> bool:
        """Remove one image; True if it is gone."""
        image = removed.image
        fields = {
            "sha256": image.blob.sha256,
            "origins": list(image.origins),
            "reason": removed.reason.value,
            "size_bytes": image.allocated_bytes,
        }
        try:
            self._store.drop(image.blob)
        except ImageStorageError as exc:
            log.warning("image not removed", extra=fields | {"error": str(exc)})
            return False
        log.info("image removed", extra=fields)
        return True


def _images_of(plan: Sequence[Eviction]) -> list[RemovedImage]:
    return [
        RemovedImage(image=eviction.item, reason=eviction.reason)
        for eviction in plan
        if isinstance(eviction.item, KeptImage)
    ]


def _refuse_kept(image: KeptImage) -> None:
    if image.is_in_use:
        who = ", ".join(image.users) or "another hard link"
        raise ImageError(
            f"image {image.label} is in use by {who}",
            hint="--force removes it from the cache; running VMs keep it",
        )
    if image.is_pinned:
        raise ImageError(f"image {image.label} is pinned", hint="unpin it first, or use --force")
    if image.is_prefetched:
        raise ImageError(
            f"image {image.label} is one of images.prefetch in node.toml",
            hint="remove it there first: the driver would download it again",
        )
