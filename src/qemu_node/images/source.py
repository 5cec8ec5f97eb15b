"""What a job's `image` may name: a URL or a path. Pure.

Owns the grammar of both and the form in which a URL may be shown: user, password and query, which
may hold a token, never appear in a message, a log or a file of the cache.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

from qemu_node.errors import JobError

SCHEMES = ("https", "http")

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_KEY_CHARS = 32  # 128 bits of SHA-256


@dataclass(frozen=True, slots=True)
class UrlSource:
    """An http or https URL; as text it shows no secret."""

    url: str = field(repr=False)
    """As the job wrote it, less the fragment. May hold a password: not to be shown."""
    shown: str
    """The URL for people."""
    file_name: str
    """The last part of its path, decoded; may be empty."""

    def __str__(self) -> str:
        return self.shown

    @property
    def key(self) -> str:
        """What the cache files this source under. Credentials are part of it, unrecoverably."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:_KEY_CHARS]


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file on this host: relative to the task directory, or absolute."""

    path: str

    def __str__(self) -> str:
        return self.path


def parse_source(text: str) -> UrlSource | PathSource:
    """Return what a job's `image` names.

    Raises:
        JobError: it is neither an http(s) URL nor a path.
    """
    scheme = _SCHEME.match(text)
    if scheme is not None:
        if scheme["scheme"].lower() not in SCHEMES:
            raise JobError(
                f"image {redact(text)}: {scheme['scheme']}:// is not supported",
                hint="use https, http, or a path inside the task directory or images.image_paths",
            )
        return parse_url(text, "image")
    if not text.strip() or "\0" in text:
        raise JobError("image is empty", hint="name a URL or a path")
    if ".." in PurePosixPath(text).parts:
        raise JobError(f'image {text!r}: ".." is not allowed in a path')
    return PathSource(text)


def parse_url(text: str, option: str) -> UrlSource:
    """Return the http(s) URL in `text`; `option` names the job's option in errors.

    Raises:
        JobError: it is none.
    """
    shown = redact(text)
    if _UNPRINTABLE.search(text):
        raise JobError(
            f"{option} {shown!r} is not a URL: it holds a space or a control character",
            hint="write a space as %20",
        )
    try:
        parts = urlsplit(text)
        # Both are parsed when asked for, and raise then.
        is_complete = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as exc:
        # Python's text repeats the user and password, so it goes no further.
        raise JobError(f"{option} {shown} is not a URL: its host or port is wrong") from exc
    if parts.scheme not in SCHEMES or not is_complete:
        raise JobError(f"{option} {shown} is not an http or https URL with a host")
    return UrlSource(
        url=parts._replace(fragment="").geturl(),
        shown=shown,
        file_name=PurePosixPath(unquote(parts.path)).name,
    )


def redact(url: str) -> str:
    """Return `url` without user, password, the values of its query and its fragment.

    Works on text that is no proper URL as well, for the message that says so.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://…"
    host = parts.netloc.rpartition("@")[2]
    query = "…" if parts.query else ""
    return SplitResult(parts.scheme, host, parts.path, query, "").geturl()
