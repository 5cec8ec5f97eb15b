"""Opening images: one of the cache, or a file of this host; checked before anybody else opens it.

Owns `CachedImage`, the open file that a VM gets, and its checks. Does not own downloads (`cache`)
nor which files a job may name (`localfile`).
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from qemu_node.config.images import ImagesConfig
from qemu_node.host.files.space import MakeRoom
from qemu_node.images.errors import ImageGoneError, ImageStorageError, UnsafeImageError
from qemu_node.images.format import imagefile
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.source.checksum import Algorithm, Checksum, require_equal
from qemu_node.images.source.localfile import copy_private, is_shared, open_local
from qemu_node.images.source.name import PathSource, RemoteSource
from qemu_node.images.store.blob import mark_used
from qemu_node.images.store.sourcerecord import Version
from qemu_node.images.store.store import ImageStore
from qemu_node.units import Share


@dataclass(slots=True, kw_only=True, eq=False)
class CachedImage:
    """An image that was checked and is held open: `fd` is the file that was checked.

    Whoever may write to the task's directory can replace the file at `path`: give QEMU the
    descriptor. It also keeps the image readable if the cache removes it.
    """

    path: Path
    fd: int
    """Read-only; -1 once closed."""
    format: ImageFormat
    virtual_size_bytes: int
    origin: str
    """The URL or path that the job named, without secrets."""
    digest: str | None
    """`sha256:…`; None for an image that is used in place."""
    note: str | None = None
    """A message for the task's owner, such as that the source is down."""

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    async def verify(self, wanted: Checksum) -> None:
        """Raise unless the image has the digest `wanted`. Reads all of it.

        Raises:
            ChecksumMismatchError: it has another one.
            ImageStorageError: it cannot be read.
        """
        try:
            actual = await imagefile.digest(self.fd, wanted.algorithm)
        except OSError as exc:
            raise ImageStorageError(f"cannot read image {self.origin}: {exc.strerror}") from exc
        require_equal(self.origin, actual, wanted)


class ImageOpener:
    """Opens the images of one cache and the files that jobs may name."""

    def __init__(
        self, store: ImageStore, config: ImagesConfig, reserve: Share, make_room: MakeRoom
    ) -> None:
        self._store = store
        self._image_paths = tuple(Path(path) for path in config.image_paths)
        self._max_bytes = config.max_size_bytes
        self._reserve = reserve
        self._make_room = make_room

    async def open_cached(
        self, source: RemoteSource, version: Version, note: str | None
    ) -> CachedImage:
        """Return an image of the cache, open and checked.

        Raises:
            ImageGoneError: the cache has removed it.
            UnsafeImageError, ImageStorageError: it must not be used, or cannot be read.
        """
        return await _in_thread(lambda: self._open_cached(source, version, note))

    async def open_local(self, source: PathSource, task_dir: Path) -> CachedImage:
        """Return a file of this host, open and checked.

        Raises:
            JobError: it is not there, or not where a job may have files.
            ImageError: it must not be used, or cannot be read.
        """
        return await _in_thread(lambda: self._open_local(source, task_dir))

    def _open_cached(self, source: RemoteSource, version: Version, note: str | None) -> CachedImage:
        path = self._store.blob_path(version)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise ImageGoneError(f"{path} was removed while the VM was being started") from exc
        except OSError as exc:
            raise ImageStorageError(f"cannot open {path}: {exc.strerror}") from exc
        mark_used(fd)
        digest = str(Checksum(Algorithm.SHA256, version.sha256))
        return self._checked(
            path, fd, source.shown, pinned=version.format, digest=digest, note=note
        )

    def _open_local(self, source: PathSource, task_dir: Path) -> CachedImage:
        path, fd = open_local(source, task_dir, self._image_paths)
        if is_shared(path, task_dir):
            # Other tasks could change its header between our check and QEMU's.
            try:
                self._store.prepare()
                copy = copy_private(fd, self._store.partials_dir, self._reserve, self._make_room)
            finally:
                os.close(fd)
            fd = copy
        return self._checked(path, fd, source.path)

    def _checked(
        self,
        path: Path,
        fd: int,
        origin: str,
        *,
        pinned: ImageFormat | None = None,
        digest: str | None = None,
        note: str | None = None,
    ) -> CachedImage:
        """Return the image open as `fd`; close it if it must not be used."""
        try:
            info = imagefile.inspect(fd, pinned=pinned, max_virtual_size_bytes=self._max_bytes)
        except UnsafeImageError as exc:
            os.close(fd)
            raise UnsafeImageError(f"image {origin} is refused: {exc}", hint=exc.hint) from exc
        except OSError as exc:
            os.close(fd)
            raise ImageStorageError(f"cannot read image {origin}: {exc.strerror}") from exc
        return CachedImage(
            path=path,
            fd=fd,
            format=info.format,
            virtual_size_bytes=info.virtual_size_bytes,
            origin=origin,
            digest=digest,
            note=note,
        )


async def _in_thread(opener: Callable[[], CachedImage]) -> CachedImage:
    """Open an image in a thread, as its disk may be slow; close it if the caller is cancelled."""
    future = asyncio.get_running_loop().run_in_executor(None, opener)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(future: "asyncio.Future[CachedImage]") -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
