"""The image cache as others see it: a job's `image` in, an open, checked image out.

Owns sharing one pull among all who wait for the same image, and the object they get. Does not own
the files (`store`), the decision what to fetch (`pull`) nor the overlays made on an image.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from qemu_node.config import ImagesConfig
from qemu_node.errors import JobError, NodeError
from qemu_node.host.tasks import TaskOwner
from qemu_node.images import imagefile
from qemu_node.images.checksum import Algorithm, Checksum, find_in_sums, parse_checksum
from qemu_node.images.errors import (
    ChecksumMismatchError,
    ImageDownloadError,
    ImageStorageError,
    UnsafeImageError,
)
from qemu_node.images.fetch import FetchLimits, fetch_text
from qemu_node.images.imagefile import ImageFormat, ImageInfo
from qemu_node.images.localfile import open_local
from qemu_node.images.pull import Progress, Pulled, Puller
from qemu_node.images.source import PathSource, UrlSource, parse_source
from qemu_node.images.store import ImageStore

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int | None], None]
"""Hears of a download: bytes arrived, and bytes in all where the source told."""

_PROGRESS_S = 0.5


@dataclass(slots=True, kw_only=True, eq=False)
class CachedImage:
    """An image that was checked and is held open: `fd` is that very file.

    Whoever may write to the task's directory may replace what `path` names: give QEMU the
    descriptor. It also keeps the image readable should the cache remove it.
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
    """What the task's owner should know, such as that the source is down."""

    def close(self) -> None:
        """Let go of the file; harmless when done twice."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """One line of `image list`: what a source gave last."""

    origin: str
    digest: str
    path: Path
    format: ImageFormat
    size_bytes: int
    virtual_size_bytes: int
    fetched_at: float
    """Unix time."""


@dataclass(frozen=True, slots=True)
class _SharedPull:
    """A pull under way and how far it is."""

    task: "asyncio.Task[Pulled | NodeError]"
    progress: Progress


class ImageCache:
    """Images for VMs: a URL's are downloaded once and shared, this host's are used in place."""

    def __init__(
        self,
        images_dir: Path,
        config: ImagesConfig,
        tasks: TaskOwner,
        *,
        limits: FetchLimits = FetchLimits(),  # noqa: B008 - frozen
    ) -> None:
        """Keep images in `images_dir`, which is made when needed; downloads belong to `tasks`."""
        self._store = ImageStore(images_dir)
        self._image_paths = tuple(Path(path) for path in config.image_paths)
        self._max_bytes = config.max_size_bytes
        self._limits = limits
        self._puller = Puller(self._store, max_bytes=self._max_bytes, limits=limits)
        self._tasks = tasks
        self._pulls: dict[tuple[str, str | None], _SharedPull] = {}

    async def get(
        self,
        source: str,
        *,
        checksum: str | None = None,
        task_dir: Path,
        on_progress: OnProgress = lambda _done, _total: None,
    ) -> CachedImage:
        """Return the image that a job names, open and checked. The caller closes it.

        May be cancelled at any time: a download goes on, and a later call joins it.

        Args:
            source: The job's `image`: a URL, or a path in the task directory or `image_paths`.
            checksum: The job's `checksum`: a digest or the URL of a SUMS file.
            task_dir: The task's directory.
            on_progress: Called now and then while a download runs, never without one.

        Raises:
            JobError: `source` or `checksum` makes no sense, or the file is not there.
            ImageError: the image cannot be had or must not be used; `retry` says whether later.
        """
        image = parse_source(source)
        wanted = None if checksum is None else parse_checksum(checksum)
        if isinstance(image, PathSource):
            return await self._get_local(image, wanted, task_dir)
        if not isinstance(image, UrlSource):
            raise JobError(f"image {image}: this node fetches from https and http only")
        pulled = await self._shared_pull(image, wanted, on_progress)
        return await _in_thread(lambda: self._open_stored(image, pulled))

    def list(self) -> list[StoredImage]:
        """Return what the cache holds, ordered by URL. Blocks for a few file operations."""
        return [
            StoredImage(
                origin=record.url,
                digest=str(Checksum(Algorithm.SHA256, record.sha256)),
                path=path,
                format=record.format,
                size_bytes=record.size_bytes,
                virtual_size_bytes=record.virtual_size_bytes,
                fetched_at=record.fetched_at,
            )
            for record, path in self._store.records()
        ]

    async def reconcile(self) -> None:
        """Remove what killed downloads left behind; downloads that run, here or elsewhere, go on.

        Raises:
            HostError, ImageStorageError: the host refused.
        """
        await asyncio.to_thread(self._store.prepare)
        removed = await asyncio.to_thread(self._store.clean)
        if removed:
            log.info("interrupted downloads removed", extra={"count": removed})

    async def _shared_pull(
        self, source: UrlSource, checksum: Checksum | UrlSource | None, on_progress: OnProgress
    ) -> Pulled:
        """Wait for the pull of `source`, started by us or by an earlier call."""
        wish = (
            source.key(),
            checksum.key() if isinstance(checksum, UrlSource) else _text(checksum),
        )
        pull = self._pulls.get(wish)
        if pull is None:
            progress = Progress()
            task = self._tasks.start(
                self._pull(source, checksum, progress), name=f"pull {source.shown}"
            )
            pull = self._pulls[wish] = _SharedPull(task, progress)
            task.add_done_callback(lambda _task: self._pulls.pop(wish))
        while not pull.task.done():
            await asyncio.wait({pull.task}, timeout=_PROGRESS_S)
            if pull.progress.is_downloading:
                on_progress(pull.progress.done_bytes, pull.progress.total_bytes)
        if pull.task.cancelled():
            raise ImageDownloadError(f"the download of {source} was given up: the node shuts down")
        outcome = pull.task.result()
        if isinstance(outcome, NodeError):
            raise outcome
        return outcome

    async def _pull(
        self, source: UrlSource, checksum: Checksum | UrlSource | None, progress: Progress
    ) -> Pulled | NodeError:
        """Pull, and return the failure: nobody may be waiting for it any more."""
        try:
            return await self._puller.pull(source, checksum, progress)
        except NodeError as exc:
            log.warning("image not available", extra={"url": source.shown, "error": str(exc)})
            return exc

    def _open_stored(self, source: UrlSource, pulled: Pulled) -> CachedImage:
        record = pulled.record
        path = self._store.blob_path(record)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise ImageStorageError(f"cannot open {path}: {exc.strerror}") from exc
        info = self._inspect(fd, source.shown, record.format)
        return CachedImage(
            path=path,
            fd=fd,
            format=info.format,
            virtual_size_bytes=info.virtual_size_bytes,
            origin=source.shown,
            digest=str(Checksum(Algorithm.SHA256, record.sha256)),
            note=pulled.note,
        )

    async def _get_local(
        self, source: PathSource, checksum: Checksum | UrlSource | None, task_dir: Path
    ) -> CachedImage:
        image = await _in_thread(lambda: self._open_local(source, task_dir))
        try:
            if isinstance(checksum, UrlSource):
                text = await fetch_text(checksum, limits=self._limits)
                checksum = find_in_sums(text, image.path.name, str(checksum))
            if checksum is not None:
                await _verify(image, checksum)
        except BaseException:
            image.close()
            raise
        return image

    def _open_local(self, source: PathSource, task_dir: Path) -> CachedImage:
        path, fd = open_local(source, task_dir, self._image_paths)
        info = self._inspect(fd, source.path, None)
        return CachedImage(
            path=path,
            fd=fd,
            format=info.format,
            virtual_size_bytes=info.virtual_size_bytes,
            origin=source.path,
            digest=None,
        )

    def _inspect(self, fd: int, origin: str, pinned: ImageFormat | None) -> ImageInfo:
        """Return what the file says of itself; close it if it may not be used."""
        try:
            return imagefile.inspect(fd, pinned=pinned, max_virtual_size_bytes=self._max_bytes)
        except UnsafeImageError as exc:
            os.close(fd)
            raise UnsafeImageError(f"image {origin} is refused: {exc}", hint=exc.hint) from exc
        except OSError as exc:
            os.close(fd)
            raise ImageStorageError(f"cannot read image {origin}: {exc.strerror}") from exc


async def _in_thread(opener: Callable[[], CachedImage]) -> CachedImage:
    """Open an image in a thread, for its disk may be slow; close it if nobody waits any more."""
    future = asyncio.get_running_loop().run_in_executor(None, opener)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(future: "asyncio.Future[CachedImage]") -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()


def _text(checksum: Checksum | None) -> str | None:
    return None if checksum is None else str(checksum)


async def _verify(image: CachedImage, wanted: Checksum) -> None:
    try:
        actual = await imagefile.digest(image.fd, wanted.algorithm)
    except OSError as exc:
        raise ImageStorageError(f"cannot read image {image.origin}: {exc.strerror}") from exc
    if actual != wanted:
        raise ChecksumMismatchError(
            f"{image.origin} is not the image that its checksum names: got {actual}, "
            f"expected {wanted}"
        )
