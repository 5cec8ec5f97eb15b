"""Small files over HTTP, read whole: SUMS files, manifests, tokens.

Owns their limits of size and time and the encoding of text. Does not own the request (`httpfile`)
nor images (`transfer`).
"""

import asyncio
import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field

from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.http.httpfile import HttpFile, request
from qemu_node.images.http.httpsettings import HttpSettings
from qemu_node.units import MIB, format_size

# UTF-32's first: UTF-16's little-endian mark is the beginning of it.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Without a mark: which of the first two bytes is the NUL that ASCII has in UTF-16.
_ENCODINGS_BY_NUL = {(False, True): "utf-16-le", (True, False): "utf-16-be"}

_OK = 200
_UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallAnswer:
    """An answer that was read whole: HTTP 200, or 401 with its challenge."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name; several of one name are joined by ", ", as RFC 9110, 5.3 has it."""
    body: bytes = field(repr=False)
    is_foreign: bool = False
    """Whether a redirect led to another scheme, host or port. No secret is sent there."""


async def fetch_small(file: HttpFile, *, http: HttpSettings, max_bytes: int = MIB) -> SmallAnswer:
    """Return a small answer, read whole: that of HTTP 200, or 401 with its challenge.

    Raises:
        ImageDownloadError: it did not arrive whole.
        ImageRefusedError: any other status, or the answer is larger than `max_bytes`.
    """
    limit_s = http.limits.small_s
    try:
        async with asyncio.timeout(limit_s):
            return await _fetch_small(file, http, max_bytes)
    except TimeoutError:
        raise ImageDownloadError(
            f"cannot fetch {file}: it took longer than {limit_s:g} s"
        ) from None


async def _fetch_small(file: HttpFile, http: HttpSettings, max_bytes: int) -> SmallAnswer:
    body = bytearray()
    async with request(file, {}, accepted=(_OK, _UNAUTHORIZED), http=http) as answer:
        async for chunks in answer.chunks(http.limits):
            body += b"".join(chunks)
            if len(body) > max_bytes:
                raise ImageRefusedError(
                    f"{file} is larger than the {format_size(max_bytes)} that it may be"
                )
        answer.check_coding(str(file), body)
        names = {name.lower() for name in answer.response.headers}
        return SmallAnswer(
            status=answer.status,
            headers={name: ", ".join(answer.response.headers.getall(name)) for name in names},
            body=bytes(body),
            is_foreign=answer.is_foreign,
        )


async def fetch_text(file: HttpFile, *, http: HttpSettings) -> str:
    """Return the small text file `file`, at most 1 MiB, without its byte order mark.

    It is UTF-8, or UTF-16 or UTF-32, as PowerShell writes files, or else Windows-1252, which has
    the letters of Latin-1. Bytes that mean nothing in it are replaced.

    Raises:
        ImageDownloadError: it did not arrive whole.
        ImageRefusedError: the source refuses it, or it is larger.
    """
    answer = await fetch_small(file, http=http)
    if answer.status != _OK:
        raise ImageRefusedError(
            f"cannot fetch {file}: the server answered HTTP {answer.status}", status=answer.status
        )
    return _decode(answer.body)


def _decode(body: bytes) -> str:
    encodings = (encoding for mark, encoding in _BYTE_ORDER_MARKS if body.startswith(mark))
    encoding = next(encodings, None) or _ENCODINGS_BY_NUL.get(
        (body[:1] == b"\0", body[1:2] == b"\0")
    )
    if encoding is None:
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError:
            encoding = "cp1252"
    return body.decode(encoding, errors="replace").removeprefix("\ufeff")
