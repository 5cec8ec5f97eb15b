"""The one way from text to an http or https URL: `parse_url`. Pure.

Owns which text is a valid URL, the target of a redirect, and how a URL is shown without its
secrets. All text that becomes a URL passes through here: a job's image and checksum, a redirect, a
registry's token service, an address built from settings. So no library gets a host that it cannot
handle.

Does not own which hosts may be asked (`source.allowlist`, `address`).

The grammar is RFC 3986, appendix B and section 3.2, with hosts that DNS can hold (RFC 1035, 2.3.4;
an underscore is allowed, since real names have it).
"""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, quote, urljoin, urlsplit

SCHEMES = ("https", "http")
DEFAULT_PORTS = {"https": 443, "http": 80}

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
_NAME_MAX_CHARS = 253
_MAX_PORT = 65535
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_LOCATION = re.compile(
    r"(?P<authority>(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*)?(?P<rest>.*)", re.DOTALL
)
_URL_CHARACTERS = "%:/?#[]@!$&'()*+,;=-._~"  # and letters and digits: RFC 3986, 2
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class UrlError(ValueError):
    """The text is not a URL. The message says why without the text, which may hold a secret."""


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """A valid URL. All parts are ASCII; as text it has no login."""

    scheme: str
    """`https` or `http`."""
    host: str
    """In lower case; an IPv6 address in brackets, a name beyond ASCII as `xn--…`."""
    port: int | None
    """None: the default of the scheme."""
    target: str = field(repr=False)
    """Path and query as they are sent."""
    login: str | None = field(default=None, repr=False)
    """`user:password` as it is written, percent-encoded; never sent as part of the URL."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_port}{self.target}"

    @property
    def host_port(self) -> str:
        """`host`, or `host:port` where the text names a port."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def path(self) -> str:
        """The target without its query, percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: a secret is sent to no other (RFC 6454)."""
        return self.scheme, self.host, self.port or DEFAULT_PORTS[self.scheme]

    def join(self, location: str) -> "HttpUrl":
        """Return what `location` means here, as a redirect's target (RFC 9110, 10.2.2).

        Characters that are not allowed in a URL are encoded, as browsers do: servers send names of
        files as they are. Bytes that are not UTF-8 are surrogates in `location` (PEP 383).

        Raises:
            UrlError: it is not a URL.
        """
        try:
            text = urljoin(str(self), _encoded(location))
        except ValueError as exc:
            raise UrlError("its host is wrong") from exc
        return parse_url(text)


def parse_url(text: str) -> HttpUrl:
    """Return the http or https URL in `text`, without its fragment.

    Raises:
        UrlError: it is not one.
    """
    _check_characters(text)
    match = _URL.fullmatch(text)
    if match is None:
        raise UrlError("it is not an http or https URL")
    login, at, host_port = match["authority"].rpartition("@")
    host, port = parse_host_port(host_port)
    # aiohttp sends no `?` without a query behind it.
    query = "" if match["query"] in (None, "?") else match["query"]
    target = quote((match["path"] or "/") + query, safe=_ASCII)
    return HttpUrl(match["scheme"].lower(), host, port, target, login if at else None)


def parse_host_port(text: str) -> tuple[str, int | None]:
    """Return the host in `host` or `host:port`, as `HttpUrl.host` has it, and the port.

    Raises:
        UrlError: it is neither.
    """
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise UrlError("its host or port is wrong")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port <= _MAX_PORT:
        raise UrlError("its port is wrong")
    if match["host"].startswith("["):
        return _check_ipv6(match["host"].lower()), port
    return _check_name(match["host"]), port


def is_loopback(host: str) -> bool:
    """Tell whether `host` is this machine by its name or address, without a look-up."""
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host.removesuffix(".") == "localhost"


def redact(url: str) -> str:
    """Return `url` without user, password, the values of its query and its fragment.

    Also works on text that is not a URL, for the message that says so.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://…"
    host = parts.netloc.rpartition("@")[2]
    query = "…" if parts.query else ""
    return SplitResult(parts.scheme, host, parts.path, query, "").geturl()


def _check_ipv6(host: str) -> str:
    try:
        # A zone has a meaning only on one host (RFC 6874); no image is served at such an address.
        is_right = IPv6Address(host[1:-1]).scope_id is None
    except ValueError:
        is_right = False
    if not is_right:
        raise UrlError("its host is not an IPv6 address")
    return host


def _check_name(host: str) -> str:
    name = host
    if not name.isascii():
        # Loaded for such names only.
        import yarl

        try:
            name = yarl.URL.build(scheme="http", host=name).raw_host or ""
        except ValueError as exc:
            raise UrlError("its host is not a name") from exc
    name = name.lower()
    if not name:
        raise UrlError("it has no host")
    if len(name.removesuffix(".")) > _NAME_MAX_CHARS or _NAME.fullmatch(name) is None:
        raise UrlError("its host is not a name that DNS can hold")
    if _NUMBER.fullmatch(name) and not _is_ipv4(name):
        # "127.1" and "2130706433" are addresses to some libraries only (url.spec.whatwg.org, 3.5).
        raise UrlError("its host is a number and not an IPv4 address")
    return name


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _encoded(location: str) -> str:
    """Return `location` with its path and query in the characters that a URL may hold."""
    match = _LOCATION.fullmatch(location.strip())
    assert match is not None  # It matches any text.
    # Python's functions drop such characters without an error.
    _check_characters(match["authority"] or "")
    try:
        rest = match["rest"].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise UrlError("it contains bytes that are not text") from exc
    return (match["authority"] or "") + _BARE_PERCENT.sub("%25", quote(rest, safe=_URL_CHARACTERS))


def _check_characters(text: str) -> None:
    if not text.isprintable() or " " in text:
        raise UrlError("it holds a space or a control character")
