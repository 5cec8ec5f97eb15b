"""What the headers of an HTTP answer say: pure, and distrustful.

Owns the grammars of Content-Range, ETag and Retry-After as far as a download needs them (RFC 9110).
Does not own what follows (`fetch`).
"""

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass

_VALIDATOR_MAX_CHARS = 1024
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
# RFC 9110, 14.4; a length of at most 19 digits is below 2^64.
_RANGE = re.compile(
    r"bytes[ \t]+(?:(?P<first>\d{1,19})-(?P<last>\d{1,19})|\*)/(?P<total>\d{1,19}|\*)",
    re.IGNORECASE | re.ASCII,
)
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)


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

    @property
    def strong_etag(self) -> str | None:
        """The ETag, if two files that have it are equal byte by byte: no `W/` (RFC 9110, 8.8.1)."""
        if self.etag is None or _STRONG_ETAG.fullmatch(self.etag) is None:
            return None
        return self.etag


def validators_of(headers: Mapping[str, str]) -> Validators:
    """Return the validators in `headers`; what would be no header again is left out."""
    return Validators(
        etag=_validator(headers.get("ETag")), last_modified=_validator(headers.get("Last-Modified"))
    )


def _validator(value: str | None) -> str | None:
    is_usable = value and len(value) <= _VALIDATOR_MAX_CHARS and value.isascii()
    return value if value and is_usable and value.isprintable() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRange:
    """Which part of a file an answer holds, or, with HTTP 416, how long the file is."""

    first: int | None
    """None where the range asked for is not there."""
    last: int | None
    total: int | None
    """None where the server does not say."""


def parse_content_range(value: str | None) -> ContentRange | None:
    """Return what a Content-Range header says; None where it is missing or makes no sense."""
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
    """Return after how many seconds the server wants to be asked again; None where it is silent.

    `now_s` is the Unix time: the header may hold a date (RFC 9110, 10.2.3).
    """
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - now_s)
    except (ValueError, TypeError, OverflowError, OSError):
        return None
