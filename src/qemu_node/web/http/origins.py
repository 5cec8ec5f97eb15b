"""Whose page has sent a request: pure.

Owns comparing `Origin` and `Host`, parsed, and which names of the node are its own (against DNS
rebinding). Does not own what follows. Headers of a proxy (`X-Forwarded-…`) count for nothing:
whoever sends a request can write them. Behind a proxy with another name, port or scheme its address
is in `allowed_origins`.

Sources: RFC 6454 6.2 and 7, RFC 9110 7.2, RFC 3986 3.2.2, Fetch 3.2 (`Origin`), W3C Fetch Metadata.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from qemu_node.errors import ConfigError
from qemu_node.text import printable

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?", re.ASCII)
_HOST_MAX_CHARS = 260
Scheme = Literal["http", "https"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port; the host in lower case, an address in its shortest form."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if _PORTS.get(self.scheme) == self.port else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def parse_origin(text: str) -> Origin | None:
    """Return the origin that a header's value names; None if it names none, as `null` does."""
    scheme, found, authority = text.partition("://")
    if not found or scheme not in _PORTS:
        return None
    host_port = parse_host(authority, scheme)
    return None if host_port is None else Origin(scheme, *host_port)


def parse_host(text: str, scheme: str) -> tuple[str, int] | None:
    """Return host and port of the value of `Host`; None if it is not one host with one port."""
    if len(text) > _HOST_MAX_CHARS:
        return None
    if text.startswith("["):
        address, found, rest = text[1:].partition("]")
        host = _address(address) if found else None
        if host is None or ":" not in host:
            return None
    else:
        name, found, rest = text.partition(":")
        rest = found + rest
        host = _name(name)
        if host is None:
            return None
    if not rest:
        return host, _PORTS[scheme]
    number = rest[1:]
    if not rest.startswith(":") or not (number.isascii() and number.isdecimal()):
        return None
    port = int(number) if len(number) <= 5 else 0
    return (host, port) if 1 <= port <= 65535 else None


def is_own_page(
    origin: str, host: str, scheme: Scheme, *, allowed: Collection[Origin] = ()
) -> bool:
    """Tell whether a page with this `Origin` is the console's own, which `host` was asked for.

    Args:
        origin: The header's value.
        host: The value of `Host`.
        scheme: Of the connection.
        allowed: Addresses of proxies, of node.toml.
    """
    page = parse_origin(origin)
    if page is None:
        return False
    if page in allowed:
        return True
    asked = parse_host(host, scheme)
    return asked is not None and page == Origin(scheme, *asked)


def is_own_host(host: str, scheme: Scheme, *, names: Collection[str]) -> bool:
    """Tell whether the value of `Host` names this node, not another name that leads here.

    An address needs no check: the browser has connected to it, and no name of others is in it.

    Args:
        host: The header's value.
        scheme: Of the connection.
        names: The node's, in lower case, without a dot at the end.
    """
    parsed = parse_host(host, scheme)
    if parsed is None:
        return False
    name = parsed[0]
    if _address(name) is not None:
        return True
    return name == "localhost" or name.endswith(".localhost") or name in names


def is_cross_site(sec_fetch_site: str | None) -> bool:
    """Tell whether the browser says that a page of somebody else sends the request.

    `none` is a person: an address typed, a bookmark. `same-site` is another host of the domain.
    """
    return sec_fetch_site not in (None, "same-origin", "none")


def parse_allowed(texts: Collection[str]) -> frozenset[Origin]:
    """Return the origins of node.toml's `allowed_origins`.

    Raises:
        ConfigError: one of them is no origin.
    """
    found = set()
    for text in texts:
        origin = parse_origin(text.rstrip("/").lower())
        if origin is None:
            raise ConfigError(
                f"allowed_origins: {printable(text)!r} is no origin",
                hint="for example https://console.example.com:8443",
            )
        found.add(origin)
    return frozenset(found)


def _name(text: str) -> str | None:
    name = text.lower()
    if not _NAME.fullmatch(name):
        return None
    # A browser takes `127.1` and `0x7f.1` for an address and writes it in full, so no page has such
    # an origin: a last label of digits is an address or nothing (WHATWG URL 3.5).
    if name.rstrip(".").rpartition(".")[2].isdecimal():
        return _address(name)
    return name.removesuffix(".")


def _address(text: str) -> str | None:
    if "%" in text:
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def is_loopback(address: str) -> bool:
    """Tell whether the address of a connection's other end is this node itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
