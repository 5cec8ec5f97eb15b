"""The image cache as others see it: a job's `image` in, an open, checked image out.

Owns sharing one download among all who wait for the same image. Does not own the files (`store`),
the decision what to download (`pull`), opening an image (`openimage`) nor the overlays on it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qemu_node.config.images import ImagesConfig
from qemu_node.errors import JobError, NodeError
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.files.space import MakeRoom, make_no_room
from qemu_node.images.download.download import PullLimits
from qemu_node.images.download.pull import Pulled, Puller
from qemu_node.images.download.writer import Progress
from qemu_node.images.errors import ImageDownloadError
from qemu_node.images.http.address import AddressPolicy, parse_networks
from qemu_node.images.http.httpsettings import FetchLimits, HttpSettings
from qemu_node.images.openimage import CachedImage, ImageOpener
from qemu_node.images.source.allowlist import AllowedSource, check_allowed, parse_allowed
from qemu_node.images.source.checksum import Checksum, find_in_sums, parse_checksum
from qemu_node.images.source.credentials import CredentialStore
from qemu_node.images.source.name import PathSource, RemoteSource, UrlSource, parse_source
from qemu_node.images.source.remote import Remote, find_remote
from qemu_node.images.store.store import ImageStore
from qemu_node.units import Share

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int | None], None]
"""Called with the progress of a download: bytes received, and in all if that is known."""

_PROGRESS_S = 0.5


@dataclass(frozen=True, slots=True)
class _SharedPull:
    """A pull that runs, and its progress."""

    task: "asyncio.Task[Pulled | NodeError]"
    progress: Progress


class ImageCache:
    """Images for VMs: those of URLs are downloaded once and shared, files are used in place."""

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
        """Keep images in `images_dir`, which is made when needed; downloads run as `tasks`.

        Args:
            images_dir: The cache's directory.
            config: The operator's settings.
            tasks: Outlives the cache.
            reserve: How much of the file system downloads leave free.
            limits: Limits for tests; None: the usual ones.
            make_room: Called in a thread if the disk has no room for a download.

        Raises:
            ConfigError: a source or network in `config` is not valid.
        """
        self._store = ImageStore(images_dir)
        self._opener = ImageOpener(self._store, config, reserve, make_room)
        self._allowed = _allowed_sources(config)
        self._credentials = CredentialStore(config.credentials)
        self._puller = Puller(
            self._store, limits=_pull_limits(config, reserve, limits), make_room=make_room
        )
        self._tasks = tasks
        self._pulls: dict[tuple[str, str | None, str | None], _SharedPull] = {}

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

        May be cancelled at any time: the download continues, and a later call joins it.

        Args:
            source: The job's `image`: a remote source, or a path in the task directory or
                `image_paths`.
            checksum: The job's `checksum`: a digest or the URL of a SUMS file.
            task_dir: The task's directory.
            namespace: The job's, whose credentials are used; None: those for all namespaces.
            on_progress: Called from time to time while a download runs, never without one.

        Raises:
            JobError: `source` or `checksum` is not valid or not allowed, or the file is not there.
            ImageError: the image is not available or must not be used; `retry` says whether a retry
                can help.
        """
        image = parse_source(source)
        wanted = None if checksum is None else parse_checksum(checksum)
        if isinstance(image, PathSource):
            return await self._get_local(image, wanted, task_dir, namespace)
        pulled = await self._shared_pull(image, wanted, namespace, on_progress)
        return await self._opener.open_cached(image, pulled.version, pulled.note)

    async def pull(
        self,
        source: str,
        *,
        checksum: str | None = None,
        namespace: str | None = None,
        on_progress: OnProgress = lambda _done, _total: None,
    ) -> Pulled:
        """Bring the cached image of a remote source up to date and return it, without opening it.

        May be cancelled like `get`.

        Raises:
            JobError: `source` is a path, or it or `checksum` is not valid or not allowed.
            ImageError: the image is not available; `retry` says whether a retry can help.
        """
        image = parse_source(source)
        if isinstance(image, PathSource):
            raise JobError(
                f"image {image} is a path: there is nothing to download",
                hint="a job may name it, if images.image_paths in node.toml has its directory",
            )
        wanted = None if checksum is None else parse_checksum(checksum)
        return await self._shared_pull(image, wanted, namespace, on_progress)

    def _remote(self, source: RemoteSource, namespace: str | None, option: str) -> Remote:
        """Return `source` with the credential for `namespace`, if the operator allows it at all."""
        check_allowed(source, self._allowed, option)
        return find_remote(source, self._credentials, namespace)

    def _wanted(
        self, checksum: Checksum | UrlSource | None, namespace: str | None
    ) -> Checksum | Remote | None:
        """Return a job's checksum; the URL of a SUMS file with the credential for `namespace`."""
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
        # Each presigned URL is asked for by itself: only the source can check its signature.
        key = (
            remote.key,
            remote.signature,
            wanted.key if isinstance(wanted, Remote) else _text(wanted),
        )
        pull = self._pulls.get(key)
        if pull is None:
            progress = Progress()
            task = self._tasks.start(self._pull(remote, wanted, progress), name=f"pull {remote}")
            pull = self._pulls[key] = _SharedPull(task, progress)
            task.add_done_callback(lambda _task: self._pulls.pop(key))
        while not pull.task.done():
            await asyncio.wait({pull.task}, timeout=_PROGRESS_S)
            if pull.progress.is_downloading:
                on_progress(pull.progress.done_bytes, pull.progress.total_bytes)
        if pull.task.cancelled():
            raise ImageDownloadError(
                f"the download of {source} was cancelled: the driver is shutting down"
            )
        outcome = pull.task.result()
        if isinstance(outcome, NodeError):
            raise outcome
        return outcome

    async def _pull(
        self, remote: Remote, checksum: Checksum | Remote | None, progress: Progress
    ) -> Pulled | NodeError:
        """Pull, and return the failure instead of raising it: all callers may be cancelled."""
        try:
            return await self._puller.pull(remote, checksum, progress)
        except NodeError as exc:
            log.warning("image not available", extra={"url": str(remote), "error": str(exc)})
            return exc

    async def _get_local(
        self,
        source: PathSource,
        checksum: Checksum | UrlSource | None,
        task_dir: Path,
        namespace: str | None,
    ) -> CachedImage:
        wanted = self._wanted(checksum, namespace)
        image = await self._opener.open_local(source, task_dir)
        try:
            if isinstance(wanted, Remote):
                wanted = find_in_sums(
                    await self._puller.read_sums(wanted), image.path.name, str(wanted)
                )
            if wanted is not None:
                await image.verify(wanted)
        except BaseException:
            image.close()
            raise
        return image


def check_settings(config: ImagesConfig) -> None:
    """Check the settings that only the cache understands.

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
        http=HttpSettings(
            limits=fetch or FetchLimits(total_s=config.download_timeout_s),
            addresses=AddressPolicy(
                allow=parse_networks(config.allow_networks, "images.allow_networks"),
                refuse=parse_networks(config.refuse_networks, "images.refuse_networks"),
            ),
            ca_file=config.ca_file,
            proxy=config.proxy,
            no_proxy=config.no_proxy,
        ),
    )


def _text(checksum: Checksum | None) -> str | None:
    return None if checksum is None else str(checksum)
