"""Taking a download in: received in the event loop while threads digest, unpack and write.

Owns the hand-over between the two and what becomes of a download that ends early. Does not own the
files (`partial`) nor the connection (`fetch`).
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
from qemu_node.images.http.fetch import Resume
from qemu_node.images.source.checksum import Algorithm
from qemu_node.images.store.partial import Aborted, PartialFile, Room

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """How far a download is, for those who wait for it."""

    is_downloading: bool = False
    done_bytes: int = 0
    total_bytes: int | None = None


class Intake:
    """The sink of one download; what came is worked on while more arrives."""

    def __init__(
        self,
        path: Path,
        *,
        url: str,
        algorithms: frozenset[Algorithm],
        max_bytes: int,
        room: Room,
        progress: Progress,
        admit: Callable[[], Awaitable[None]],
    ) -> None:
        """Take a download in at `path`.

        Args:
            path: Where it grows; the caller holds its lock.
            url: Its source as it may be shown.
            algorithms: Digests of the received bytes that are asked for.
            max_bytes: What it may unpack to.
            room: What of the file system it may take.
            progress: Told how far it is.
            admit: Awaited before bytes are taken; raises where that must not happen now.
        """
        self._path = path
        self._url = url
        self._algorithms = algorithms
        self._max_bytes = max_bytes
        self._room = room
        self._progress = progress
        self._admit = admit
        self._partial: PartialFile | None = None
        self._work: asyncio.Future[None] | None = None
        self._is_resumable = False

    @property
    def partial(self) -> PartialFile:
        """The file; there is one once a download has begun."""
        assert self._partial is not None
        return self._partial

    async def resume(self) -> Resume | None:
        """Return what an earlier process left, read again; None where that is of no use.

        Raises:
            ImageStorageError: the host refused.
        """
        left = await to_the_end(
            PartialFile.left_at,
            self._path,
            self._algorithms,
            max_bytes=self._max_bytes,
            room=self._room,
        )
        if left is None:
            return None
        self._partial, sidecar = left
        assert sidecar.etag is not None  # Such a one is not returned.
        self._is_resumable = True
        self._run(self.partial.reread)
        try:
            await self._settle()
        except UnsafeImageError as exc:
            # Not what was served before: let it come anew.
            log.warning("partial download is damaged", extra={"url": self._url, "error": str(exc)})
            await to_the_end(self.partial.discard)
            self._partial, self._work = None, None
            return None
        return Resume(
            offset_bytes=self.partial.received_bytes,
            etag=sidecar.etag,
            total_bytes=sidecar.total_bytes,
        )

    async def begin(
        self, offset_bytes: int, total_bytes: int | None, validators: Validators
    ) -> None:
        """Hear that bytes from `offset_bytes` on follow; see `fetch.Sink`."""
        await self._admit()
        await self._settle()
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
            self._partial = PartialFile(
                self._path,
                self._algorithms,
                max_bytes=self._max_bytes,
                room=self._room,
            )
            self._partial.describe(self._url, etag, total_bytes)
        assert self.partial.received_bytes == offset_bytes
        if total_bytes is not None:
            self.partial.expect(total_bytes - offset_bytes)

    async def write(self, *chunks: bytes) -> None:
        """Take the next bytes; they are in the file once the next call, or `finish`, returns."""
        await self._settle()
        self._run(self.partial.write, *chunks)
        self._progress.done_bytes += sum(map(len, chunks))

    async def finish(self) -> None:
        """Hear that nothing follows.

        Raises:
            ImageStorageError, UnsafeImageError: as `PartialFile.write`.
        """
        await self._settle()
        await to_the_end(self.partial.finish)

    async def close(self, *, keep: bool) -> None:
        """Let go of the file: left for a later attempt where `keep` and that can go on, else gone.

        A file that was placed stays where it is.
        """
        if self._partial is None:
            return
        self._partial.stop()
        if self._work is not None:
            # What ended the download is what counts.
            with contextlib.suppress(Exception):
                await finish(self._work)
        end = self._partial.leave if keep and self._is_resumable else self._partial.discard
        await to_the_end(end)

    def _run(self, function: Callable[..., None], *args: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._work = loop.run_in_executor(None, function, *args)

    async def _settle(self) -> None:
        """Wait for the thread, and raise what it ran into."""
        if self._work is not None:
            try:
                await asyncio.shield(self._work)
            except Aborted as exc:
                raise asyncio.CancelledError from exc
            self._work = None
