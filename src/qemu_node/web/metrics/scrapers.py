"""Who may collect figures without a login: the owner of a token of node.toml, and the node itself.

Owns the file of that token. It is read at each use, so another one counts at once. Does not own
other ways in: whoever has no such right is judged like anybody else (`access.guard`).
"""

import hmac
import logging
from pathlib import Path

from aiohttp import web

from qemu_node.errors import ConfigError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.reading import read_secret
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.nomadacl import compile_acl
from qemu_node.web.access.session.sessions import Session
from qemu_node.web.http.middleware import is_from_this_node, token_of
from qemu_node.web.http.origins import is_cross_site

log = logging.getLogger(__name__)

TOKEN_MIN_CHARS = 32
_HINT = "`openssl rand -hex 32` makes what the file must hold"
_FOREVER_S = float("inf")


class Scrapers:
    """Of one application."""

    def __init__(self, settings: AccessSettings) -> None:
        self._token_file = settings.metrics_token_file
        self._is_open_on_node = settings.metrics_on_loopback
        self._problem = ""
        self._by_token = _session("scraper with a token")
        self._on_node = _session("scraper on the node")

    async def find(self, request: web.Request) -> Session | None:
        """Return the session of whoever may collect figures, and may do nothing else.

        A token that is not that of the file is for others to judge, also on the node.
        """
        token = token_of(request)
        if token is not None:
            wanted = await self._token()
            is_right = wanted is not None and hmac.compare_digest(token.encode(), wanted.encode())
            return self._by_token if is_right else None
        # A browser on the node is not to read them for a page of others.
        is_own = is_from_this_node(request) and not is_cross_site(
            request.headers.get("Sec-Fetch-Site")
        )
        return self._on_node if self._is_open_on_node and is_own else None

    async def _token(self) -> str | None:
        if self._token_file is None:
            return None
        try:
            token = await to_the_end(read_token, self._token_file)
        except ConfigError as exc:
            if str(exc) != self._problem:
                self._problem = str(exc)
                log.warning("no token of web.metrics_token_file", extra={"error": exc.explain()})
            return None
        self._problem = ""
        return token


def read_token(path: Path) -> str:
    """Return the token that a file holds.

    Raises:
        ConfigError: it cannot be read, others can, or it is too short to be no guess.
    """
    token = read_secret(path, hint=_HINT).strip()
    if len(token) < TOKEN_MIN_CHARS:
        raise ConfigError(
            f"{path}: the token has less than {TOKEN_MIN_CHARS} characters", hint=_HINT
        )
    return token


def _session(user: str) -> Session:
    """Return a session that allows nothing: the right to figures is that of being found."""
    return Session(
        id="metrics",
        user=user,
        auth="metrics",
        acl=compile_acl(()),
        ends_at=_FOREVER_S,
        idle_s=_FOREVER_S,
        used_at=0.0,
        checked_at=0.0,
    )
