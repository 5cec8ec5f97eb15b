"""Which sources the operator allows: `images.sources` of node.toml. Pure.

Owns the grammar of its entries and whether one covers a source. It checks what a job names; the
addresses behind it are checked in `http.address`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qemu_node.errors import ConfigError, JobError
from qemu_node.images.http.url import DEFAULT_PORTS
from qemu_node.images.source.name import RemoteSource, UrlSource

_HOST = re.compile(
    r"(?P<wild>\*\.)?(?P<name>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>\d+))?"
)
_PREFIX = re.compile(r"(?P<scheme>https|http|s3|oci)://(?P<host>[^/?#@]+)(?P<path>/.*)?")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a source is, in a form that can be compared."""

    scheme: str
    name: str
    port: int | None
    path: str


@dataclass(frozen=True, slots=True)
class AllowedSource:
    """One entry: a host (`mirror.example.org`, `*.example.org`), or the beginning of a source."""

    text: str
    place: _Place
    is_wild: bool = False

    def covers(self, source: RemoteSource) -> bool:
        """Tell whether the entry allows `source`."""
        place = _place_of(source)
        # A bucket is not a host, whatever its name.
        if self.place.scheme != place.scheme and (self.place.scheme or place.scheme == "s3"):
            return False
        if self.is_wild:
            is_host = place.name.endswith(f".{self.place.name}")
        else:
            is_host = place.name == self.place.name
        if not is_host or (self.place.port is not None and self.place.port != place.port):
            return False
        return _is_below(place.path, self.place.path, is_oci=place.scheme == "oci")


def parse_allowed(text: str) -> AllowedSource:
    """Return the entry in `text`.

    Raises:
        ConfigError: it is not one.
    """
    wrong = ConfigError(
        f"images.sources: {text!r} is not a source",
        hint='write a host "mirror.example.org" or "*.example.org", or a beginning such as '
        '"https://mirror.example.org/debian/", "s3://bucket/" or "oci://registry/team"',
    )
    prefix = _PREFIX.fullmatch(text)
    if prefix is not None:
        scheme, host, path = prefix["scheme"], prefix["host"].lower(), prefix["path"] or "/"
        is_query = scheme in DEFAULT_PORTS and any(char in path for char in "?#")
        if is_query or _has_dots(path):
            raise wrong
    else:
        scheme, host, path = "", text.lower(), "/"
    match = _HOST.fullmatch(host)
    if match is None or (prefix is not None and match["wild"]):
        raise wrong
    port = int(match["port"]) if match["port"] else DEFAULT_PORTS.get(scheme)
    return AllowedSource(text, _Place(scheme, match["name"], port, path), bool(match["wild"]))


def check_allowed(source: RemoteSource, allowed: Sequence[AllowedSource], option: str) -> None:
    """Raise unless an entry of `allowed` covers `source`; without entries all sources are allowed.

    Raises:
        JobError: the operator does not allow it. `option` names the job's option.
    """
    if allowed and not any(entry.covers(source) for entry in allowed):
        raise JobError(
            f"{option} {source.shown} is not among the sources that this node allows",
            hint=f"images.sources in node.toml: {', '.join(entry.text for entry in allowed)}",
        )


def _place_of(source: RemoteSource) -> _Place:
    if isinstance(source, UrlSource):
        scheme, _, rest = source.url.partition("://")
        path = rest.partition("?")[0].partition("/")[2]
    else:
        scheme, _, rest = source.shown.partition("://")
        path = rest.partition("/")[2]
    host = source.host.removeprefix("s3://")
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, ""
    scheme = scheme.lower()
    return _Place(scheme, name, int(port) if port else DEFAULT_PORTS.get(scheme), f"/{path}")


def _is_below(path: str, top: str, *, is_oci: bool) -> bool:
    """Tell whether `path` is `top` or below it: `/a` covers `/a/b`, never `/ab`."""
    if top == "/":
        return True
    if _has_dots(path):
        return False
    stem = top.rstrip("/")
    following = path.removeprefix(stem)
    if following == path:
        return False
    return following == "" or following[0] == "/" or (is_oci and following[0] in ":@")


def _has_dots(path: str) -> bool:
    """Tell whether a server could resolve the path to another one."""
    plain = path.lower().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/")
    return any(part in (".", "..") for part in plain.replace("\\", "/").split("/"))
