"""One file behind http(s), as it is asked for, and a small answer. Values, without any I/O.

Owns what the kinds of sources (plain URL, S3, OCI) tell the downloader about a request. Does not
own making it (`fetch`) nor how a source becomes one (`sigv4`, `oci`).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

Sign = Callable[[str, str], Mapping[str, str]]
"""(method, URL as sent) → headers to add.

Reads the operator's secret when called, so that a rotated one counts: blocks for a small file, and
belongs in a thread. Raises an ImageError where the secret cannot be had or must not be sent there.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFile:
    """One file behind http(s); as text it shows no secret."""

    url: str = field(repr=False)
    """May hold a password or a token: not to be shown."""
    shown: str
    """The file for people."""
    sign: Sign | None = field(default=None, repr=False)
    """Called anew for each request, only for those to `url`'s own scheme, host and port."""
    renew: Callable[[], Awaitable[None]] | None = field(default=None, repr=False)
    """What makes `sign` give something new, where `url`'s own origin answers 401.

    A registry's token is good for minutes, a download may take hours. Worth one more request.
    """
    accept: str | None = None
    """The Accept header."""
    method: str = "GET"
    """HEAD asks for the headers alone."""
    size_bytes: int | None = None
    """How long it is, where that is known before; anything else is not this file."""

    def __str__(self) -> str:
        return self.shown


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallAnswer:
    """An answer that was read whole: HTTP 200, or 401 for who can answer its challenge."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name; several of one name are joined by ", ", as RFC 9110, 5.3 has it."""
    body: bytes = field(repr=False)
    is_foreign: bool = False
    """Whether a redirect led to another scheme, host or port than was asked.

    Nobody there is told who we are.
    """
