"""How somebody can get in, as the page asks before anybody has logged in.

Owns that Nomad is asked at most once in `KNOWN_S`, however many ask. Does not own the ways
themselves (`door`).
"""

import asyncio
from collections.abc import Callable

import msgspec

from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.nomadapi import NomadApi, NomadError
from qemu_node.web.access.acl.nomadtoken import are_acls_disabled
from qemu_node.web.access.login.oidc import Oidc
from qemu_node.web.http.problems import Problem

KNOWN_S = 5.0


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks to be let in."""

    address: str
    """Of his connection."""
    is_local: bool
    """Whether he is on this node itself."""


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """How somebody can get in."""

    ways: tuple[str, ...] = ()
    """Of `token`, `ott`, `oidc`, `password`, `link`, `open`; empty: not at all."""
    oidc_methods: tuple[str, ...] = ()
    """Names of Nomad's auth methods."""
    why: str = ""
    """What is in the way."""


class WaysIn:
    """Of one application."""

    def __init__(
        self,
        settings: AccessSettings,
        api: NomadApi | None,
        oidc: Oidc | None,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._api = api
        self._oidc = oidc
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: Ways | None = None
        self._known_until = clock()

    def is_open_to(self, visitor: Visitor) -> bool:
        """Tell whether he is let in by a Nomad without ACLs."""
        return self._settings.open_without_acls or visitor.is_local

    async def find(self, visitor: Visitor) -> Ways:
        """Return how he can get in."""
        match self._settings.auth:
            case "nomad":
                return await self._by_nomad(visitor)
            case way:
                return Ways(ways=(way,))

    async def _by_nomad(self, visitor: Visitor) -> Ways:
        async with self._lock:
            if self._clock() >= self._known_until:
                self._known = await self._ask()
                self._known_until = self._clock() + KNOWN_S
        if self._known is not None:
            return self._known
        if self.is_open_to(visitor):
            return Ways(ways=("open",))
        return Ways(why=acls_off().explain())

    async def _ask(self) -> Ways | None:
        """Return the ways of a Nomad with ACLs; None if it has none."""
        if self._oidc is None or self._api is None:
            return Ways(why="the console does not know where Nomad is")
        try:
            if await are_acls_disabled(self._api):
                return None
            methods = await self._oidc.methods()
        except NomadError as exc:
            return Ways(ways=("token", "ott"), why=exc.explain())
        return Ways(
            ways=("token", "ott", *(["oidc"] if methods else [])),
            oidc_methods=tuple(method.name for method in methods),
        )


def acls_off() -> Problem:
    """Return the error of whoever is not let in because Nomad has no ACLs."""
    return Problem(
        403,
        "acls-off",
        "Nomad has no ACLs here, so the console lets in only programs on the node itself",
        hint="`ssh -L 5800:localhost:5800 NODE`, then https://localhost:5800; or turn on ACLs",
    )
