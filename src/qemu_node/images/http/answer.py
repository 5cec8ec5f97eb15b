"""An HTTP answer: what its headers say, and its body as it arrives. No server is trusted.

Owns the grammars of Content-Range, Content-Encoding, ETag and Retry-After as far as a download
needs them (RFC 9110), the region in an answer of S3, and reading a body in chunks. Does not own the
request (`httpfile`) nor what is done with the bytes (`small`, `transfer`).
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qemu_node.images.errors import ImageRefusedError
from qemu_node.images.http.httpsettings import FetchLimits
from qemu_node.images.http.url import HttpUrl

if TYPE_CHECKING:
    import aiohttp

CHUNK_BYTES = 1 << 20
"""How much of a body is handed on at once."""

_VALIDATOR_MAX_CHARS = 1024
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
# RFC 9110, 14.4; a length of at most 19 digits is below 2^64.
_RANGE = re.compile(
    r"bytes[ \t]+(?:(?P<first>\d{1,19})-(?P<last>\d{1,19})|\*)/(?P<total>\d{1,19}|\*)",
    re.IGNORECASE | re.ASCII,
)
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer whose body is still to be read."""

    response: "aiohttp.ClientResponse"
    is_foreign: bool
    """Whether a redirect led away from the scheme, host and port that were asked."""
    url: HttpUrl
    """The URL that was asked last."""
    is_redirected: bool
    recoded: bytes | None
    """The body is not the file's own bytes if it begins so (`recoded_by`)."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by name in any case."""
        return self.response.headers

    async def chunks(self, limits: FetchLimits) -> AsyncGenerator[list[bytes]]:
        """Yield the body, about 1 MiB at a time; fail if too little arrives within `stall_s`.

        What has been read before a failure is yielded before the failure is raised.
        """
        now = asyncio.get_running_loop().time
        chunks: list[bytes] = []
        held_bytes = since_bytes = 0
        deadline = now() + limits.stall_s
        failure: Exception | None = None
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    data = await self.response.content.readany()
            except Exception as exc:
                failure = exc
                break
            if not data:
                break
            chunks.append(data)
            held_bytes += len(data)
            since_bytes += len(data)
            if held_bytes >= CHUNK_BYTES:
                yield chunks
                chunks, held_bytes = [], 0
            if since_bytes >= limits.stall_bytes:
                # After the consumer has taken the chunks: a slow disk is not the source's fault.
                since_bytes = 0
                deadline = now() + limits.stall_s
        if chunks:
            yield chunks
        if failure is not None:
            raise failure

    def check_coding(self, shown: str, head: bytes | bytearray) -> None:
        """Raise if a body that begins with `head` is encoded, which the request did not allow.

        Raises:
            ImageRefusedError: it is; `shown` names the file.
        """
        if self.recoded is not None and head.startswith(self.recoded):
            raise ImageRefusedError(
                f"cannot fetch {shown}: the server encoded it, though asked not to",
                hint="turn off compression of images on the server",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """What tells this version of a file from another (RFC 9110, 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return self.etag is not None or self.last_modified is not None

    def request_headers(self) -> dict[str, str]:
        """Return the headers that ask for the file only if it changed; the ETag is preferred."""
        if self.etag is not None:
            return {"If-None-Match": self.etag}
        if self.last_modified is not None:
            return {"If-Modified-Since": self.last_modified}
        return {}

    @property
    def strong_etag(self) -> str | None:
        """The ETag if it is strong: files that have it are equal byte by byte (RFC 9110, 8.8.1)."""
        if self.etag is None or _STRONG_ETAG.fullmatch(self.etag) is None:
            return None
        return self.etag


def validators_of(headers: Mapping[str, str]) -> Validators:
    """Return the validators in `headers`, without those that could not be sent back."""
    return Validators(
        etag=_validator(headers.get("ETag")), last_modified=_validator(headers.get("Last-Modified"))
    )


def _validator(value: str | None) -> str | None:
    is_usable = value and len(value) <= _VALIDATOR_MAX_CHARS and value.isascii()
    return value if value and is_usable and value.isprintable() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRange:
    """Which part of a file an answer has, or, with HTTP 416, how long the file is."""

    first: int | None
    """None if the file does not have the range that was asked for."""
    last: int | None
    total: int | None
    """None if the server does not say."""


def parse_content_range(value: str | None) -> ContentRange | None:
    """Return what a Content-Range header says; None if it is missing or not valid."""
    match = None if value is None else _RANGE.fullmatch(value.strip())
    if match is None:
        return None
    total = None if match["total"] == "*" else int(match["total"])
    if match["first"] is None:
        return None if total is None else ContentRange(first=None, last=None, total=total)
    first, last = int(match["first"]), int(match["last"])
    if first > last or (total is not None and last >= total):
        return None
    return ContentRange(first=first, last=last, total=total)


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Return after how many seconds the server wants to be asked again; None if it does not say.

    `now_s` is the Unix time: the header may hold a date (RFC 9110, 10.2.3).
    """
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    # Few servers send a date, and a driver keeps what it imports.
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - now_s)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


# The registered content codings (IANA, "HTTP Content Coding Registry"), with their aliases and the
# suffixes of files that are compressed by them. Anything else is not a coding, although gateways
# and uploaders write such values: empty, `aws-chunked` (S3's way of uploading), `none`, `binary`,
# `utf-8`.
_CODINGS: Mapping[str, tuple[str, ...]] = {
    "gzip": (".gz", ".tgz"),
    "x-gzip": (".gz", ".tgz"),
    "zstd": (".zst", ".zstd"),
    "br": (".br",),
    "compress": (".z",),
    "x-compress": (".z",),
    "deflate": (),
    "exi": (),
    "pack200-gzip": (),
    "aes128gcm": (),
    "dcb": (),
    "dcz": (),
}
_GZIP_TYPES = frozenset({"application/gzip", "application/x-gzip"})
# The first bytes of a body in these codings; the others have none.
_CODING_MAGIC = {
    "gzip": b"\x1f\x8b",
    "x-gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "compress": b"\x1f\x9d",
    "x-compress": b"\x1f\x9d",
}


def recoded_by(content_encoding: str, media_type: str, names: Iterable[str]) -> bytes | None:
    """Return the first bytes by which a body is known to be encoded, not the file itself.

    None if it is the file itself in any case; empty if it is encoded in any case.

    A server that goes by the names of its files labels `disk.img.gz` as gzip and sends it
    unchanged: then the coding is the file's own. `names` are the paths by which it was asked for.
    An object that was uploaded with a wrong label is sent unchanged, too: its first bytes show it.
    """
    words = (word.strip().lower() for word in content_encoding.split(","))
    codings = [word for word in words if word in _CODINGS]
    if not codings:
        return None
    is_gzip = media_type.partition(";")[0].strip().lower() in _GZIP_TYPES
    is_own = any(name.lower().endswith(_CODINGS[codings[0]]) for name in names) or (
        is_gzip and codings[0] in ("gzip", "x-gzip")
    )
    if len(codings) == 1 and is_own:
        return None
    return _CODING_MAGIC.get(codings[-1], b"")


_REGION_NAME = r"[a-z0-9-]{1,40}"
_REGION_ELEMENT = re.compile(
    rf"<Region>({_REGION_NAME})</Region>|<Endpoint>[^<]{{0,200}}s3[.-]({_REGION_NAME})\.amazonaws\.".encode()
)


def bucket_region(headers: Mapping[str, str], body: bytes) -> str | None:
    """Return the bucket's region as S3 names it, in a header or in the document of an error."""
    header = headers.get("x-amz-bucket-region", "")
    if re.fullmatch(_REGION_NAME, header):
        return header
    match = _REGION_ELEMENT.search(body)
    return None if match is None else (match[1] or match[2]).decode()
