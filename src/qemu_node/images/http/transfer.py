"""One file over HTTP from a source that may be slow, broken or hostile, however large it is.

Owns the limits of size and time, resuming after a connection broke, and starting over when the file
has changed. Does not own a single request (`httpfile`), where the bytes go (`Sink`) nor what they
must be (`source.checksum`).
"""

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import Protocol

from qemu_node.errors import ImageError
from qemu_node.host.allocator import reuse_large_buffers
from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.http.answer import (
    Answer,
    ContentRange,
    Validators,
    parse_content_range,
    validators_of,
)
from qemu_node.images.http.httpfile import HttpFile, request
from qemu_node.images.http.httpsettings import HttpSettings
from qemu_node.units import format_size

log = logging.getLogger(__name__)

_OK = 200
_PARTIAL = 206
_NOT_MODIFIED = 304
_NOT_SATISFIABLE = 416


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What an earlier attempt received: so many bytes of the file with this ETag."""

    offset_bytes: int
    etag: str
    total_bytes: int | None


class Sink(Protocol):
    """What receives a download."""

    async def begin(
        self, offset_bytes: int, total_bytes: int | None, validators: Validators
    ) -> None:
        """Prepare for bytes from `offset_bytes` on; at 0 what was received before is discarded.

        `total_bytes` is the length of the whole file, if the source said so.
        """

    async def write(self, *chunks: bytes) -> None:
        """Take the next bytes, in the pieces received: joining them would be another copy."""


async def transfer(
    file: HttpFile,
    sink: Sink,
    *,
    max_bytes: int,
    known: Validators | None = None,
    resume: Resume | None = None,
    http: HttpSettings,
) -> Validators | None:
    """Put `file` into `sink` and return its validators; None if it has not changed from `known`.

    A connection that breaks is made again, at most `limits.retries` times without progress, and the
    transfer goes on at the same byte if the file's ETag is strong. With `known`, where a cached
    image may be used instead, the first failure before any byte ends it.

    Raises:
        ImageDownloadError: it did not arrive whole; what `sink` was given is a part of it.
        ImageRefusedError: the source refuses it, or it is larger than `max_bytes`.
    """
    reuse_large_buffers()
    run = _Transfer(file, sink, max_bytes, known, resume, http)
    limit_s = http.limits.total_s
    try:
        async with asyncio.timeout(limit_s):
            return await run.run()
    except TimeoutError:
        raise ImageDownloadError(
            f"cannot fetch {file}: it took longer than {limit_s:g} s",
            hint="see images.download_timeout in node.toml",
        ) from None


def problem_of_part(
    part: ContentRange | None, validators: Validators, resume: Resume
) -> str | None:
    """Return why an answer 206 does not continue the part received before; None if it does. Pure.

    It must name its version, with If-Range as well (RFC 9110, 15.3.7): a server that knows ranges
    but not If-Range sends the rest of a changed file, and only the ETag shows that.
    """
    if part is None or part.first != resume.offset_bytes:
        return "the server sent another part than the requested one"
    if None not in (part.total, resume.total_bytes) and part.total != resume.total_bytes:
        return "the length of the file changed"
    if validators.etag is None:
        return "the server did not say which version of the file it sent a part of"
    if validators.etag != resume.etag:
        return "the file changed"
    return None


class _Transfer:
    """One download over as many requests as it takes."""

    def __init__(
        self,
        file: HttpFile,
        sink: Sink,
        max_bytes: int,
        known: Validators | None,
        resume: Resume | None,
        http: HttpSettings,
    ) -> None:
        self._file = file
        self._sink = sink
        self._max_bytes = max_bytes
        self._known = known
        self._http = http
        self._limits = http.limits
        self._offset_bytes = resume.offset_bytes if resume else 0
        self._total_bytes = resume.total_bytes if resume else None
        self._validators = Validators(etag=resume.etag) if resume else Validators()
        self._is_begun = False

    async def run(self) -> Validators | None:
        failures = 0
        best_bytes = self._offset_bytes
        while True:
            try:
                return await self._attempt()
            except ImageDownloadError as exc:
                if self._known and not self._is_begun:
                    raise
                # Only more bytes than ever before are progress: a source that breaks off at the
                # same byte each time, or changes each time, is given up.
                if self._offset_bytes >= best_bytes + self._limits.stall_bytes:
                    best_bytes, failures = self._offset_bytes, 0
                pause_s = self._pause_s(exc, failures)
                failures += 1
                log.info(
                    "download interrupted",
                    extra={
                        "url": self._file.shown,
                        "error": str(exc),
                        "done_bytes": self._offset_bytes,
                        "retry_in_s": round(pause_s, 1),
                    },
                )
                await asyncio.sleep(pause_s)

    def _pause_s(self, exc: ImageDownloadError, failures: int) -> float:
        """Return how long to wait before the next attempt; raise `exc` if there is none."""
        asked_s = exc.retry_after_s or 0.0
        if failures >= self._limits.retries or asked_s > self._limits.retry_after_max_s:
            raise exc
        # Random, so that nodes which lost a server at the same moment do not all retry at once.
        backoff_s = self._limits.backoff_s * (1 << failures) * random.uniform(0.5, 1.0)
        return max(asked_s, backoff_s)

    async def _attempt(self) -> Validators | None:
        """Make one request, for the rest of the file if that is possible, and read the answer."""
        resume = self._resume()
        headers: dict[str, str] = {}
        accepted = {_OK}
        if self._known and not self._is_begun:
            headers |= self._known.request_headers()
            accepted |= {_NOT_MODIFIED} if headers else set()
        if resume is not None:
            headers |= {"Range": f"bytes={resume.offset_bytes}-", "If-Range": resume.etag}
            accepted |= {_PARTIAL, _NOT_SATISFIABLE}
        async with request(self._file, headers, accepted=accepted, http=self._http) as answer:
            if answer.status == _NOT_MODIFIED:
                return None
            if resume is None or answer.status == _OK:
                await self._begin(answer)
            elif self._is_complete(answer, resume):
                return self._validators
            else:
                await self._continue(answer, resume)
            await self._take(answer)
        return self._validators

    def _resume(self) -> Resume | None:
        etag = self._validators.strong_etag
        if etag is None or self._offset_bytes == 0:
            return None
        return Resume(offset_bytes=self._offset_bytes, etag=etag, total_bytes=self._total_bytes)

    async def _begin(self, answer: Answer) -> None:
        """Treat the answer as the file from its first byte."""
        self._offset_bytes = 0
        self._validators = validators_of(answer.headers)
        await self._expect(answer.response.content_length)

    def _is_complete(self, answer: Answer, resume: Resume) -> bool:
        """Tell whether the server says that the file has no more bytes than we have."""
        if answer.status != _NOT_SATISFIABLE:
            return False
        part = parse_content_range(answer.headers.get("Content-Range"))
        total_bytes = None if part is None else part.total
        # An equal length means that it is the file of our part only if we know how long that file
        # is, or if the answer names its ETag.
        etag = validators_of(answer.headers).etag
        is_ours = etag == resume.etag if etag is not None else resume.total_bytes == total_bytes
        if is_ours and total_bytes == resume.offset_bytes == (resume.total_bytes or total_bytes):
            return True
        raise self._started_over("the file is shorter than the part received before")

    async def _continue(self, answer: Answer, resume: Resume) -> None:
        """Treat the answer as the rest of the file."""
        part = parse_content_range(answer.headers.get("Content-Range"))
        validators = validators_of(answer.headers)
        problem = problem_of_part(part, validators, resume)
        if problem is not None:
            raise self._started_over(problem)
        self._validators = Validators(
            etag=resume.etag,
            last_modified=validators.last_modified or self._validators.last_modified,
        )
        await self._expect(resume.total_bytes or (part.total if part else None))

    def _started_over(self, problem: str) -> ImageDownloadError:
        """Forget what was received, and return the failure of this attempt."""
        self._offset_bytes = 0
        self._total_bytes = None
        self._validators = Validators()
        return ImageDownloadError(f"cannot fetch {self._file}: {problem}")

    async def _expect(self, total_bytes: int | None) -> None:
        wanted_bytes = self._file.size_bytes
        if total_bytes is None:
            total_bytes = wanted_bytes
        elif wanted_bytes not in (None, total_bytes):
            raise ImageRefusedError(
                f"{self._file} has {total_bytes} bytes, and should have {wanted_bytes}"
            )
        if total_bytes is not None and total_bytes > self._max_bytes:
            raise _too_large(self._file, self._max_bytes)
        self._total_bytes = total_bytes
        await self._sink.begin(self._offset_bytes, total_bytes, self._validators)
        self._is_begun = True

    async def _take(self, answer: Answer) -> None:
        """Pass the body to the sink; if it ends before the file does, the attempt has failed."""
        async for chunks in answer.chunks(self._limits):
            if self._offset_bytes == 0:
                answer.check_coding(str(self._file), b"".join(chunks))
            end_bytes = self._offset_bytes + sum(map(len, chunks))
            if end_bytes > self._max_bytes:
                raise _too_large(self._file, self._max_bytes)
            await self._sink.write(*chunks)
            self._offset_bytes = end_bytes
        if self._total_bytes is not None and self._offset_bytes != self._total_bytes:
            if self._offset_bytes > self._total_bytes:
                raise self._started_over("the server sent more than the whole file")
            raise ImageDownloadError(
                f"cannot fetch {self._file}: the connection broke before the end"
            )


def _too_large(file: HttpFile, max_bytes: int) -> ImageError:
    return ImageRefusedError(
        f"{file} is larger than the {format_size(max_bytes)} allowed",
        hint="see images.max_size in node.toml",
    )
