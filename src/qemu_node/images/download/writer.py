"""Writing a download: received in the event loop while threads digest, unpack and write.

Owns the hand-over between the two, and whether a download that ends early can be resumed. Does not
own the files (`store.partialfile`) nor the connection (`http.transfer`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.images.errors import UnsafeImageError
from qemu_node.images.http.answer import Validators
from qemu_node.images.http.transfer import Resume
from qemu_node.images.source.checksum import Algorithm
from qemu_node.images.store.partialfile import Aborted, DiskLimits, PartialFile, write_info

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """How far a download is, for those who wait for it."""

    is_downloading: bool = False
    done_bytes: int = 0
    total_bytes: int | None = None


class DownloadWriter:
    """The `Sink` of one download: writes each piece in a thread while the next one arrives."""

    def __init__(
        self,
        path: Path,
        *,
        url: str,
        algorithms: frozenset[Algorithm],
        limits: DiskLimits,
        progress: Progress,
        before_writing: Callable[[], Awaitable[None]],
    ) -> None:
        """Write a download to the partial file `path`.

        Args:
            path: The partial file; the caller holds its lock.
            url: The source without secrets.
            algorithms: Digests of the received bytes that are asked for.
            limits: How much of the file system it may use.
            progress: Updated as bytes arrive.
            before_writing: Awaited before the first bytes; raises if they must not be written now.
        """
        self._path = path
        self._url = url
        self._algorithms = algorithms
        self._limits = limits
        self._progress = progress
        self._before_writing = before_writing
        self._partial: PartialFile | None = None
        self._work: asyncio.Future[None] | None = None
        self._is_resumable = False

    @property
    def partial(self) -> PartialFile:
        """The file; there is one once a download has begun."""
        assert self._partial is not None
        return self._partial

    async def resume(self) -> Resume | None:
        """Return what an earlier process received, read again; None if it cannot be resumed.

        Raises:
            ImageStorageError: the host refused.
        """
        found = await to_the_end(PartialFile.reopen, self._path, self._algorithms, self._limits)
        if found is None:
            return None
        self._partial, info = found
        assert info.etag is not None  # `reopen` returns no other.
        self._is_resumable = True
        self._start(self.partial.reread)
        try:
            await self._wait()
        except UnsafeImageError as exc:
            # Not what was served before: download it again from the start.
            log.warning("partial download is damaged", extra={"url": self._url, "error": str(exc)})
            await to_the_end(self.partial.discard)
            self._partial, self._work = None, None
            return None
        return Resume(
            offset_bytes=self.partial.received_bytes,
            etag=info.etag,
            total_bytes=info.total_bytes,
        )

    async def begin(
        self, offset_bytes: int, total_bytes: int | None, validators: Validators
    ) -> None:
        """Prepare for bytes from `offset_bytes` on; see `transfer.Sink`."""
        await self._before_writing()
        await self._wait()
        self._progress.total_bytes = total_bytes
        self._progress.done_bytes = offset_bytes
        self._progress.is_downloading = True
        etag = validators.strong_etag
        await to_the_end(self._prepare, offset_bytes, total_bytes, etag)
        self._is_resumable = etag is not None

    def _prepare(self, offset_bytes: int, total_bytes: int | None, etag: str | None) -> None:
        if offset_bytes == 0:
            self._is_resumable = False
            if self._partial is not None:
                self._partial.discard()
            self._partial = PartialFile.create(self._path, self._algorithms, self._limits)
            write_info(self._path, url=self._url, etag=etag, total_bytes=total_bytes)
        assert self.partial.received_bytes == offset_bytes
        if total_bytes is not None:
            self.partial.expect(total_bytes - offset_bytes)

    async def write(self, *chunks: bytes) -> None:
        """Take the next bytes; they are in the file once the next call, or `finish`, returns."""
        await self._wait()
        self._start(self.partial.write, *chunks)
        self._progress.done_bytes += sum(map(len, chunks))

    async def finish(self) -> None:
        """Finish the file: nothing follows.

        Raises:
            ImageStorageError, UnsafeImageError: as `PartialFile.write`.
        """
        await self._wait()
        await to_the_end(self.partial.finish)

    async def close(self, *, keep: bool) -> None:
        """Close the file; keep it if `keep` and it can be resumed, else remove it.

        A file that was placed stays where it is.
        """
        if self._partial is None:
            return
        self._partial.stop()
        if self._work is not None:
            # The error that ended the download is the one to report.
            with contextlib.suppress(Exception):
                await finish(self._work)
        end = self._partial.keep if keep and self._is_resumable else self._partial.discard
        await to_the_end(end)

    def _start(self, function: Callable[..., None], *args: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._work = loop.run_in_executor(None, function, *args)

    async def _wait(self) -> None:
        """Wait for the thread, and raise its error."""
        if self._work is not None:
            try:
                await asyncio.shield(self._work)
            except Aborted as exc:
                raise asyncio.CancelledError from exc
            self._work = None
