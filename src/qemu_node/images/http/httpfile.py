"""One GET or HEAD, through redirects, to its answer: what is sent where, and how it can fail.

Owns what is asked for (`HttpFile`), the connection, the redirects and the translation of every way
to fail into a sentence without a secret. Does not own how a source becomes a file (`source`,
`registry`), nor the answer's headers and body (`answer`).

aiohttp is imported at the first request: a plugin that only starts has no need to load it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.http.address import Guard
from qemu_node.images.http.answer import (
    CHUNK_BYTES,
    Answer,
    bucket_region,
    parse_retry_after,
    recoded_by,
)
from qemu_node.images.http.httpsettings import FetchLimits, HttpSettings
from qemu_node.images.http.url import HttpUrl, UrlError, parse_url, redact

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

Sign = Callable[[str, str], Mapping[str, str]]
"""(method, URL as sent) → headers to add.

Reads the operator's secret when called, so that a new one counts at once: blocks for a small file;
call it in a thread. Raises an ImageError if the secret cannot be read or must not be sent there.
"""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRYABLE = frozenset({408, 425, 429})
_OK = 200
_LACKING = frozenset({403, 404, 410})
# What S3 answers where a bucket is in another region ("Error responses": PermanentRedirect,
# AuthorizationHeaderMalformed), the first without a Location.
_ELSEWHERE = frozenset({301, 307, 400})
_ERROR_MAX_BYTES = 8 << 10
_HEADER_MAX_BYTES = 65 << 10
_HEADERS_MAX = 512
_STATUS_UNAUTHORIZED = 401
_STATUS_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFile:
    """One file behind http(s), and how it is asked for; as text it shows no secret."""

    url: str = field(repr=False)
    """May hold a password or a token: not to be shown."""
    shown: str
    """The file's name in messages."""
    sign: Sign | None = field(default=None, repr=False)
    """Called again for each request, only for those to `url`'s own scheme, host and port."""
    renew: Callable[[], Awaitable[None]] | None = field(default=None, repr=False)
    """Makes `sign` return something new, after `url`'s own origin answered 401.

    A registry's token is valid for minutes, a download may take hours. Tried once for each request.
    """
    accept: str | None = None
    """The Accept header."""
    method: str = "GET"
    """HEAD asks for the headers alone."""
    size_bytes: int | None = None
    """The file's length, if it is known before; a file of another length is refused."""

    def __str__(self) -> str:
        return self.shown


@contextlib.asynccontextmanager
async def request(
    file: HttpFile,
    headers: Mapping[str, str],
    *,
    accepted: Collection[int],
    http: HttpSettings,
) -> AsyncGenerator[Answer]:
    """Give the answer to a request for `file`, after redirects; its status is in `accepted`.

    Errors while the body is read are translated here as well.

    Raises:
        ImageDownloadError: there is no answer, or one that asks for a retry.
        ImageRefusedError: any other answer, or an address that must not be connected to.
        ImageError: the request cannot be signed.
    """
    import aiohttp

    guard, limits = Guard(http.addresses), http.limits
    trusted = await asyncio.to_thread(http.tls_context)
    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(
            total=None, connect=limits.connect_s, sock_read=limits.stall_s
        ),
        # A checksum is of the file's own bytes, so these must arrive.
        headers={"Accept-Encoding": "identity", "User-Agent": "qemu-node"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(
            force_close=True, socket_factory=guard.make_socket, ssl=trusted
        ),
        read_bufsize=CHUNK_BYTES,
        max_line_size=_HEADER_MAX_BYTES,
        max_field_size=_HEADER_MAX_BYTES,
        max_headers=_HEADERS_MAX,
    )
    async with session:
        try:
            answer = await _ask(session, guard, file, headers, http)
            async with answer.response:
                await _check(answer, file, accepted, limits)
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if guard.refused is not None and isinstance(exc, aiohttp.ClientConnectorError):
                raise _refused(file, exc.host, guard.refused) from exc
            raise ImageDownloadError(f"cannot fetch {file}: {_reason(exc, limits)}") from exc


async def _ask(
    session: "aiohttp.ClientSession",
    guard: Guard,
    file: HttpFile,
    headers: Mapping[str, str],
    http: HttpSettings,
) -> Answer:
    """Return the answer of a mirror that has the file, if the redirector names one.

    Redirectors choose a mirror at random, even one that does not have the file yet, so the same
    mirror may come twice.
    """
    for _ in range(http.limits.mirrors - 1):
        answer = await _follow(session, guard, file, headers, http)
        if not answer.is_redirected or answer.status not in _LACKING:
            return answer
        mirror = redact(str(answer.url))
        log.info("mirror lacks the file", extra={"url": file.shown, "mirror": mirror})
        answer.response.close()
    return await _follow(session, guard, file, headers, http)


async def _follow(
    session: "aiohttp.ClientSession",
    guard: Guard,
    file: HttpFile,
    headers: Mapping[str, str],
    http: HttpSettings,
) -> Answer:
    """Return the first answer that is not a redirect. aiohttp follows none: we check each."""
    import yarl

    try:
        url = parse_url(file.url)
    except UrlError as exc:
        raise ImageRefusedError(f"cannot fetch {file}: its URL is wrong: {exc}") from exc
    limits, origin, origin_path = http.limits, url.origin, url.path
    wanted = {**headers, **({"Accept": file.accept} if file.accept else {})}
    may_renew = file.renew is not None
    hops_left = limits.redirects
    is_foreign = False
    while True:
        # It stays so: if a foreign server redirects back, that was its choice.
        is_foreign = is_foreign or url.origin != origin
        extra: Mapping[str, str] = {}
        if file.sign is not None and not is_foreign:
            # In a thread, as it reads a file. The secret is sent only to the host that it is for.
            extra = await asyncio.to_thread(file.sign, file.method, str(url))
        proxy = http.proxy_for(url.host)
        if problem := guard.prepare(url.host, is_proxied=proxy is not None):
            raise _refused(file, url.host, problem)
        async with asyncio.timeout(limits.connect_s + limits.stall_s):
            response = await session.request(
                file.method,
                # Unchanged: other quoting would break signatures.
                yarl.URL(str(url), encoded=True),
                headers={**wanted, **extra},
                proxy=proxy,
                allow_redirects=False,
            )
        if response.status == _STATUS_UNAUTHORIZED and may_renew and not is_foreign:
            assert file.renew is not None
            may_renew = False
            response.close()
            await file.renew()
            continue
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or not location:
            return Answer(
                response=response,
                is_foreign=is_foreign,
                url=url,
                is_redirected=hops_left < limits.redirects,
                recoded=_recoded(response, (origin_path, url.path)),
            )
        response.close()
        if hops_left == 0:
            raise ImageRefusedError(f"{file} redirects more than {limits.redirects} times")
        hops_left -= 1
        url = _next_hop(file, url, location)


def _refused(file: HttpFile, host: str, address: str) -> ImageRefusedError:
    return ImageRefusedError(
        f"cannot fetch {file}: {host} leads to {address}, which the node does not connect to",
        hint="images.allow_networks in node.toml makes exceptions",
    )


def _next_hop(file: HttpFile, url: HttpUrl, location: str) -> HttpUrl:
    try:
        target = url.join(location)
    except UrlError as exc:
        raise ImageRefusedError(f"{file} redirects to a URL that cannot be fetched: {exc}") from exc
    if url.scheme == "https" and target.scheme == "http":
        raise ImageRefusedError(f"{file} redirects from https to http: {redact(str(target))}")
    return target


async def _check(
    answer: Answer, file: HttpFile, accepted: Collection[int], limits: FetchLimits
) -> None:
    """Raise unless the answer is one of those `accepted`."""
    status = answer.status
    if status not in accepted:
        await _check_region(answer, file, limits)
        if status in _REDIRECTS:
            raise ImageRefusedError(f"{file} redirects without a target")
        message = f"cannot fetch {file}: the server answered HTTP {status}"
        if status >= _STATUS_SERVER_ERROR or status in _RETRYABLE:
            raise ImageDownloadError(
                message,
                retry_after_s=parse_retry_after(answer.headers.get("Retry-After"), time.time()),
            )
        raise ImageRefusedError(message, status=status)


def _recoded(response: "aiohttp.ClientResponse", names: tuple[str, ...]) -> bytes | None:
    """Return `recoded_by` of an answer; None for a part of a file, which begins anywhere."""
    if response.status != _OK:
        return None
    codings = ",".join(response.headers.getall("Content-Encoding", ()))
    return recoded_by(codings, response.headers.get("Content-Type", ""), names)


async def _check_region(answer: Answer, file: HttpFile, limits: FetchLimits) -> None:
    """Raise if the answer says that the bucket is in another region."""
    import aiohttp

    # After a redirect the request is not signed, so a refusal may have the same reason.
    if answer.status not in _ELSEWHERE and not answer.is_foreign:
        return
    body = b""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(limits.connect_s):
            while len(body) < _ERROR_MAX_BYTES and (
                more := await answer.response.content.read(_ERROR_MAX_BYTES)
            ):
                body += more
    region = bucket_region(answer.headers, body)
    if region is not None:
        raise ImageRefusedError(
            f"cannot fetch {file}: its bucket is in the region {region}",
            hint=f'give region = "{region}" in its [[images.credentials]] of node.toml',
        )


def _reason(exc: Exception, limits: FetchLimits) -> str:
    """Return the reason in our own words: the text of an exception may repeat the URL."""
    import aiohttp

    match exc:
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {limits.connect_s:g} s"
        case TimeoutError():
            return f"the server sent too little for {limits.stall_s:g} s"
        case aiohttp.ClientProxyConnectionError():
            return f"no connection to the proxy: {exc.os_error.strerror or 'failed'}"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered HTTP {exc.status}"
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
            return f"the answer is not valid HTTP ({type(exc).__name__})"
