"""The checks of every request and the headers of every answer, also of errors.

Owns: `Host` is this node's; no page of others has a change made; no secret is in a URL. Does not
own who is logged in (`access`): a request that passes here is nobody's yet.
"""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from aiohttp import web

from qemu_node.web.http.headers import missing_headers
from qemu_node.web.http.origins import (
    Origin,
    Scheme,
    is_cross_site,
    is_loopback,
    is_own_host,
    is_own_page,
)
from qemu_node.web.http.problems import Problem, bad_request, forbidden

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CHANGE_HEADER = "X-QN"
"""A request that changes something has it. A form cannot, and the script of another origin may not:
a browser would ask us first, and we answer no such question."""

TOKEN_HEADER = "X-Nomad-Token"

_PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
_SAFE_METHODS = ("GET", "HEAD")
_SECRETS = frozenset({"token", "ott", "ticket", "link", "password", "secret", "auth_token"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the node is called."""

    names: frozenset[str] = frozenset()
    """Its names, in lower case. Addresses and localhost are always right."""
    allowed_origins: frozenset[Origin] = field(default_factory=frozenset)
    """Of proxies in front of it; their hosts are names, too."""

    @property
    def hosts(self) -> Collection[str]:
        """All names that may be in `Host`."""
        return self.names | {origin.host for origin in self.allowed_origins}


def scheme_of(request: web.Request) -> Scheme:
    """Return the scheme of the connection itself, whatever headers say."""
    return "https" if request.secure else "http"


def is_from_own_page(request: web.Request, site: Site) -> bool:
    """Tell whether `Origin` is there and is the console's own."""
    origin = request.headers.get("Origin")
    return origin is not None and is_own_page(
        origin, request.headers.get("Host", ""), scheme_of(request), allowed=site.allowed_origins
    )


def is_from_this_node(request: web.Request) -> bool:
    """Tell whether a program on this node has connected, and not in the name of another.

    A proxy on this node says for whom it asks; one that says nothing is a tunnel of its user.
    """
    if any(name in request.headers for name in _PROXY_HEADERS):
        return False
    return is_loopback(request.remote or "")


def token_of(request: web.Request) -> str | None:
    """Return the token of Nomad in the headers; None if there is none."""
    token = request.headers.get(TOKEN_HEADER)
    if token is not None:
        return token
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def check_request(request: web.Request, site: Site) -> None:
    """Refuse what a page of others could have sent.

    Raises:
        Problem: 421, 400 or 403.
    """
    if not request.raw_path.startswith("/"):
        # With a host in its target (RFC 9112 3.2.2) a request would have two, and we look at one.
        raise bad_request("the target of a request is a path")
    scheme = scheme_of(request)
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not is_own_host(hosts[0], scheme, names=site.hosts):
        raise Problem(
            421,
            "wrong-host",
            "this console is not known by that name",
            hint="use the node's address, or add the name to web.allowed_origins in node.toml",
        )
    if secrets := _SECRETS & {name.lower() for name in request.query}:
        raise bad_request(
            f"{min(secrets)}: nothing secret may be in a URL, which is logged and remembered",
            hint=f"send a token in the header {TOKEN_HEADER}, all else in the body",
        )
    for name in ("Origin", "Sec-Fetch-Site", TOKEN_HEADER, "Authorization"):
        if len(request.headers.getall(name, [])) > 1:
            raise bad_request(f"{name}: only one is accepted")
    if "Origin" in request.headers and not is_from_own_page(request, site):
        raise forbidden(
            "the request comes from a page of another site",
            hint="behind a proxy: add its address to web.allowed_origins in node.toml",
        )
    is_change = request.method not in _SAFE_METHODS
    is_upgrade = "Upgrade" in request.headers
    if is_cross_site(request.headers.get("Sec-Fetch-Site")) and (is_change or is_upgrade):
        raise forbidden("the request comes from a page of another site")
    if is_change and CHANGE_HEADER not in request.headers and token_of(request) is None:
        raise forbidden(f"a change needs the header {CHANGE_HEADER}: 1")


def make_check(site: Site) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Return a middleware that calls `check_request`."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        check_request(request, site)
        return await handler(request)

    return check


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add what an answer must say; for `on_response_prepare`, which sees streams, too."""
    present = frozenset(name.lower() for name in response.headers)
    response.headers.update(missing_headers(request.path, response.content_type, present))
