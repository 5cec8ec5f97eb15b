"""HTTP: one file from a source that may be slow, broken or hostile.

Owns requests, redirects, timeouts and the translation of every way to fail into a sentence without
a secret. Does not own where the bytes go (`partial`) nor what they must be (`checksum`).

aiohttp is imported at the first fetch: a plugin that only starts has no need to load it.
"""

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qemu_node.errors import ImageError
from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.source import SCHEMES, UrlSource, redact
from qemu_node.units import format_size

if TYPE_CHECKING:
    import aiohttp
    import yarl

_CHUNK_BYTES = 1 << 20
_TEXT_MAX_BYTES = 1 << 20
_VALIDATOR_MAX_CHARS = 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRYABLE = frozenset({408, 425, 429})
_STATUS_OK = 200
_STATUS_NOT_MODIFIED = 304
_STATUS_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How long to wait and how far to follow."""

    connect_s: float = 10.0
    stall_s: float = 60.0
    """A source that gives less than `stall_bytes` in this time is given up."""
    stall_bytes: int = 64 << 10
    redirects: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """What a source said to tell this version of a file from another (RFC 9110, 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return self.etag is not None or self.last_modified is not None

    def request_headers(self) -> dict[str, str]:
        """Return the headers that ask for the file only if it changed; the ETag is the stronger."""
        if self.etag is not None:
            return {"If-None-Match": self.etag}
        if self.last_modified is not None:
            return {"If-Modified-Since": self.last_modified}
        return {}


class Sink(Protocol):
    """Where a download goes."""

    async def expect(self, total_bytes: int | None) -> None:
        """Hear how much is to come, before anything does."""

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""


async def download(
    source: UrlSource,
    sink: Sink,
    *,
    max_bytes: int,
    known: Validators | None = None,
    limits: FetchLimits,
) -> Validators | None:
    """Put the file at `source` into `sink` and return its validators; None if it is as `known`.

    Raises:
        ImageDownloadError: it did not arrive whole; `sink` holds a part of it or nothing.
        ImageRefusedError: the source will not give it, or it is larger than `max_bytes`.
    """
    headers = known.request_headers() if known else {}
    async with _request(source, headers, limits) as response:
        if response.status == _STATUS_NOT_MODIFIED:
            return None
        total_bytes = response.content_length
        if total_bytes is not None and total_bytes > max_bytes:
            raise _too_large(source, max_bytes)
        await sink.expect(total_bytes)
        got_bytes = 0
        async for chunk in _chunks(response, limits):
            got_bytes += len(chunk)
            if got_bytes > max_bytes:
                raise _too_large(source, max_bytes)
            await sink.write(chunk)
        return Validators(
            etag=_validator(response, "ETag"),
            last_modified=_validator(response, "Last-Modified"),
        )


async def fetch_text(source: UrlSource, *, limits: FetchLimits) -> str:
    """Return the small text file at `source`, at most 1 MiB; what is not UTF-8 is replaced.

    Raises:
        ImageDownloadError: it did not arrive whole.
        ImageRefusedError: the source will not give it, or it is larger.
    """
    text = bytearray()
    async with _request(source, {}, limits) as response:
        async for chunk in _chunks(response, limits):
            text += chunk
            if len(text) > _TEXT_MAX_BYTES:
                raise _too_large(source, _TEXT_MAX_BYTES)
    return text.decode(errors="replace")


@contextlib.asynccontextmanager
async def _request(
    source: UrlSource, headers: Mapping[str, str], limits: FetchLimits
) -> "AsyncGenerator[aiohttp.ClientResponse]":
    """Give the answer to a GET, redirects followed: 200, or 304 where `headers` ask for it."""
    import aiohttp

    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(
            total=None, connect=limits.connect_s, sock_read=limits.stall_s
        ),
        # An image must arrive as the bytes that its checksum is of.
        headers={"Accept-Encoding": "identity", "User-Agent": "qemu-node"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(force_close=True),
        read_bufsize=_CHUNK_BYTES,
    )
    async with session:
        try:
            response = await _follow(session, source, headers, limits)
            async with response:
                _check_answer(response, source, is_conditional=bool(headers))
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise ImageDownloadError(f"cannot fetch {source}: {_reason(exc, limits)}") from exc


async def _follow(
    session: "aiohttp.ClientSession",
    source: UrlSource,
    headers: Mapping[str, str],
    limits: FetchLimits,
) -> "aiohttp.ClientResponse":
    """Return the first answer that is no redirect. Redirects are ours to judge, not aiohttp's."""
    import yarl

    # An encoded URL is taken as it is: quoting it anew would break the signature of some.
    url = yarl.URL(source.url, encoded=source.url.isascii())
    credentials = _basic_auth(url)
    origin = url.origin()
    url = url.with_user(None)
    for _ in range(limits.redirects + 1):
        # Sent to nobody but the host that the job gave them for.
        extra = credentials if url.origin() == origin else {}
        async with asyncio.timeout(limits.connect_s + limits.stall_s):
            response = await session.get(url, headers={**headers, **extra}, allow_redirects=False)
        if response.status not in _REDIRECTS:
            return response
        url = _next_hop(source, url, response.headers.get("Location"))
        response.close()
    raise ImageRefusedError(f"{source} redirects more than {limits.redirects} times")


def _basic_auth(url: "yarl.URL") -> dict[str, str]:
    if url.user is None and url.password is None:
        return {}
    pair = f"{url.user or ''}:{url.password or ''}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _next_hop(source: UrlSource, url: "yarl.URL", location: str | None) -> "yarl.URL":
    import yarl

    if not location:
        raise ImageRefusedError(f"{source} redirects to nowhere")
    try:
        target = url.join(yarl.URL(location, encoded=location.isascii()))
        host = target.host
    except ValueError as exc:
        raise ImageRefusedError(f"{source} redirects to something that is no URL") from exc
    if target.scheme not in SCHEMES or not host:
        raise ImageRefusedError(f"{source} redirects to {target.scheme}://, not http or https")
    if url.scheme == "https" and target.scheme == "http":
        raise ImageRefusedError(f"{source} redirects from https to http: {redact(str(target))}")
    return target.with_user(None)


def _check_answer(
    response: "aiohttp.ClientResponse", source: UrlSource, *, is_conditional: bool
) -> None:
    status = response.status
    if status == _STATUS_NOT_MODIFIED and is_conditional:
        return
    if status >= _STATUS_SERVER_ERROR or status in _RETRYABLE:
        raise ImageDownloadError(f"cannot fetch {source}: the server answered HTTP {status}")
    if status != _STATUS_OK:
        raise ImageRefusedError(
            f"cannot fetch {source}: the server answered HTTP {status}", status=status
        )
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise ImageRefusedError(
            f"cannot fetch {source}: the server sent it encoded, though asked not to",
            hint="turn off compression of images on the server",
        )


async def _chunks(response: "aiohttp.ClientResponse", limits: FetchLimits) -> AsyncGenerator[bytes]:
    """Yield the body in pieces of about 1 MiB; give up a source that only drips."""
    now = asyncio.get_running_loop().time
    buffer = bytearray()
    since_bytes = 0
    deadline = now() + limits.stall_s
    while True:
        async with asyncio.timeout_at(deadline):
            data = await response.content.readany()
        if not data:
            break
        buffer += data
        since_bytes += len(data)
        if len(buffer) >= _CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
        if since_bytes >= limits.stall_bytes:
            # After the consumer has taken the chunk: a slow disk is not the source's fault.
            since_bytes = 0
            deadline = now() + limits.stall_s
    if buffer:
        yield bytes(buffer)


def _validator(response: "aiohttp.ClientResponse", name: str) -> str | None:
    value = response.headers.get(name)
    if (
        not value
        or len(value) > _VALIDATOR_MAX_CHARS
        or not (value.isascii() and value.isprintable())
    ):
        return None
    return value


def _too_large(source: UrlSource, max_bytes: int) -> ImageError:
    return ImageRefusedError(
        f"{source} is larger than the {format_size(max_bytes)} allowed",
        hint="see images.max_size in node.toml",
    )


def _reason(exc: Exception, limits: FetchLimits) -> str:
    """Say what went wrong in words of ours: the text of an exception may repeat the URL."""
    import aiohttp

    match exc:
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {limits.connect_s:g} s"
        case TimeoutError():
            return f"the server sent too little for {limits.stall_s:g} s"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {exc.host} cannot be resolved"
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {exc.host} is not trusted"
        case aiohttp.ClientConnectorError():
            return f"no connection to {exc.host}:{exc.port}: {exc.os_error.strerror or 'failed'}"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
            return "the connection broke before the end"
        case OSError():
            return exc.strerror or "the connection failed"
        case _:
            return f"the answer is not proper HTTP ({type(exc).__name__})"
