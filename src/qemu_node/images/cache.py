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

from qemu_node.config.images import ImagesConfig
from qemu_node.errors import JobError, NodeError
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.files.space import MakeRoom, make_no_room
from qemu_node.images.download.download import PullLimits
from qemu_node.images.download.intake import Progress
from qemu_node.images.download.remote import Remote, find_remote
from qemu_node.images.errors import (
    ChecksumMismatchError,
    ImageDownloadError,
    ImageGoneError,
    ImageStorageError,
    UnsafeImageError,
)
from qemu_node.images.format import imagefile
from qemu_node.images.format.imagefile import ImageFormat, ImageInfo
from qemu_node.images.http.address import AddressPolicy, parse_networks
from qemu_node.images.http.request import FetchLimits
from qemu_node.images.pull import Pulled, Puller
from qemu_node.images.source.allowlist import AllowedSource, check_allowed, parse_allowed
from qemu_node.images.source.checksum import Algorithm, Checksum, find_in_sums, parse_checksum
from qemu_node.images.source.credentials import CredentialStore
from qemu_node.images.source.localfile import copy_private, is_shared, open_local
from qemu_node.images.source.name import PathSource, RemoteSource, UrlSource, parse_source
from qemu_node.images.store.base import mark_used
from qemu_node.images.store.store import ImageStore
from qemu_node.units import Share

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
        reserve: Share = Share(),  # noqa: B008 - frozen
        limits: FetchLimits | None = None,
        make_room: MakeRoom = make_no_room,
    ) -> None:
        """Keep images in `images_dir`, which is made when needed; downloads belong to `tasks`.

        Args:
            images_dir: The cache's directory.
            config: The operator's settings.
            tasks: Outlives the cache.
            reserve: What downloads leave free of the file system.
            limits: Other than the usual ones, for tests.
            make_room: Called in a thread where the disk has no room for a download.

        Raises:
            ConfigError: a source or network in `config` makes no sense.
        """
        self._store = ImageStore(images_dir)
        self._image_paths = tuple(Path(path) for path in config.image_paths)
        self._max_bytes = config.max_size_bytes
        self._reserve = reserve
        self._make_room = make_room
        self._allowed = _allowed_sources(config)
        self._credentials = CredentialStore(config.credentials)
        self._puller = Puller(
            self._store, limits=_pull_limits(config, reserve, limits), make_room=make_room
        )
        self._tasks = tasks
        self._pulls: dict[tuple[str, str | None], _SharedPull] = {}

    async def get(
        self,
        source: str,
        *,
        checksum: str | None = None,
        task_dir: Path,
        namespace: str | None = None,
        on_progress: OnProgress = lambda _done, _total: None,
    ) -> CachedImage:
        """Return the image that a job names, open and checked. The caller closes it.

        May be cancelled at any time: a download goes on, and a later call joins it.

        Args:
            source: The job's `image`: a remote source, or a path in the task directory or
                `image_paths`.
            checksum: The job's `checksum`: a digest or the URL of a SUMS file.
            task_dir: The task's directory.
            namespace: The job's, whose credentials count; None: those for all.
            on_progress: Called now and then while a download runs, never without one.

        Raises:
            JobError: `source` or `checksum` makes no sense or is not allowed, or the file is not
                there.
            ImageError: the image cannot be had or must not be used; `retry` says whether later.
        """
        image = parse_source(source)
        wanted = None if checksum is None else parse_checksum(checksum)
        if isinstance(image, PathSource):
            return await self._get_local(image, wanted, task_dir, namespace)
        pulled = await self._shared_pull(image, wanted, namespace, on_progress)
        return await _in_thread(lambda: self._open_stored(image, pulled))

    async def pull(
        self,
        source: str,
        *,
        checksum: str | None = None,
        namespace: str | None = None,
        on_progress: OnProgress = lambda _done, _total: None,
    ) -> Pulled:
        """Return what the cache holds of a remote source once it is up to date; opens nothing.

        May be cancelled as `get` may.

        Raises:
            JobError: `source` is a path, or it or `checksum` makes no sense or is not allowed.
            ImageError: the image cannot be had; `retry` says whether later.
        """
        image = parse_source(source)
        if isinstance(image, PathSource):
            raise JobError(f"image {image} is a path: there is nothing to fetch")
        wanted = None if checksum is None else parse_checksum(checksum)
        return await self._shared_pull(image, wanted, namespace, on_progress)

    def _remote(self, source: RemoteSource, namespace: str | None, option: str) -> Remote:
        """Return `source` as `namespace` has it, if the operator allows it at all."""
        check_allowed(source, self._allowed, option)
        return find_remote(source, self._credentials, namespace)

    def _wanted(
        self, checksum: Checksum | UrlSource | None, namespace: str | None
    ) -> Checksum | Remote | None:
        """Return a job's checksum, the URL of a SUMS file as `namespace` has it."""
        if isinstance(checksum, UrlSource):
            return self._remote(checksum, namespace, "checksum")
        return checksum

    async def _shared_pull(
        self,
        source: RemoteSource,
        checksum: Checksum | UrlSource | None,
        namespace: str | None,
        on_progress: OnProgress,
    ) -> Pulled:
        """Wait for the pull of `source`, started by us or by an earlier call."""
        remote = self._remote(source, namespace, "image")
        wanted = self._wanted(checksum, namespace)
        wish = (remote.key, wanted.key if isinstance(wanted, Remote) else _text(wanted))
        pull = self._pulls.get(wish)
        if pull is None:
            progress = Progress()
            task = self._tasks.start(self._pull(remote, wanted, progress), name=f"pull {remote}")
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
        self, remote: Remote, checksum: Checksum | Remote | None, progress: Progress
    ) -> Pulled | NodeError:
        """Pull, and return the failure: nobody may be waiting for it any more."""
        try:
            return await self._puller.pull(remote, checksum, progress)
        except NodeError as exc:
            log.warning("image not available", extra={"url": str(remote), "error": str(exc)})
            return exc

    def _open_stored(self, source: RemoteSource, pulled: Pulled) -> CachedImage:
        version = pulled.version
        path = self._store.blob_path(version)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise ImageGoneError(f"{path} was removed while the VM was being started") from exc
        except OSError as exc:
            raise ImageStorageError(f"cannot open {path}: {exc.strerror}") from exc
        mark_used(fd)
        info = self._inspect(fd, source.shown, version.format)
        return CachedImage(
            path=path,
            fd=fd,
            format=info.format,
            virtual_size_bytes=info.virtual_size_bytes,
            origin=source.shown,
            digest=str(Checksum(Algorithm.SHA256, version.sha256)),
            note=pulled.note,
        )

    async def _get_local(
        self,
        source: PathSource,
        checksum: Checksum | UrlSource | None,
        task_dir: Path,
        namespace: str | None,
    ) -> CachedImage:
        wanted = self._wanted(checksum, namespace)
        image = await _in_thread(lambda: self._open_local(source, task_dir))
        try:
            if isinstance(wanted, Remote):
                wanted = find_in_sums(
                    await self._puller.read_sums(wanted), image.path.name, str(wanted)
                )
            if wanted is not None:
                await _verify(image, wanted)
        except BaseException:
            image.close()
            raise
        return image

    def _open_local(self, source: PathSource, task_dir: Path) -> CachedImage:
        path, fd = open_local(source, task_dir, self._image_paths)
        if is_shared(path, task_dir):
            # Other tasks could change its header between our look and QEMU's.
            try:
                self._store.prepare()
                copy = copy_private(fd, self._store.partials_dir, self._reserve, self._make_room)
            finally:
                os.close(fd)
            fd = copy
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


def check_settings(config: ImagesConfig) -> None:
    """Raise where a setting that only the cache understands makes no sense.

    Raises:
        ConfigError: the message names the setting.
    """
    _ = _allowed_sources(config), _pull_limits(config, Share(), None)


def _allowed_sources(config: ImagesConfig) -> tuple[AllowedSource, ...]:
    return tuple(map(parse_allowed, config.sources))


def _pull_limits(config: ImagesConfig, reserve: Share, fetch: FetchLimits | None) -> PullLimits:
    return PullLimits(
        max_bytes=config.max_size_bytes,
        ttl_s=config.ttl_s,
        downloads=config.downloads,
        reserve=reserve,
        fetch=fetch or FetchLimits(total_s=config.download_timeout_s),
        addresses=AddressPolicy(
            allow=parse_networks(config.allow_networks, "images.allow_networks"),
            refuse=parse_networks(config.refuse_networks, "images.refuse_networks"),
        ),
    )


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
