"""The ways in, put together: what proves who somebody is becomes a session.

Owns which ways are open (`AccessSettings.auth`, and whether Nomad has ACLs), the limits against
guessing, and links of `qemu-node run`. Does not own cookies and requests (`routes`).

Nomad without ACLs knows nobody. Then only programs on this node itself are let in, unless node.toml
says otherwise in plain words; and only if Nomad says that it has none, never because of an error.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import NoReturn

import msgspec

from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.web.access import audit
from qemu_node.web.access.identity import (
    AclsDisabledError,
    Identity,
    TokenError,
    are_acls_disabled,
    identify,
)
from qemu_node.web.access.nomadacl import MANAGEMENT
from qemu_node.web.access.sessions import Session, Sessions, Standing
from qemu_node.web.access.settings import AccessSettings
from qemu_node.web.login.attempts import Attempts
from qemu_node.web.login.oidc import Oidc
from qemu_node.web.login.password import PASSWORD_MAX_CHARS, read_hash
from qemu_node.web.nomadapi import NomadApi, NomadError, NomadRefusedError
from qemu_node.web.problems import Problem, bad_request, forbidden, not_logged_in, unreachable

_LINK_BYTES = 16
_HEADER_IDLE_S = 300.0
_OTT_MAX_CHARS = 256
_WAYS_S = 5.0
"""How long what Nomad said about ways to get in counts: everybody can ask."""


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


class _Exchanged(msgspec.Struct, rename="pascal"):
    """POST /v1/acl/token/onetime/exchange: the token that the one-time token was made with."""

    token: "_Secret | None" = None


class _Secret(msgspec.Struct):
    secret_id: str = msgspec.field(name="SecretID", default="")


class _OneTime(msgspec.Struct, rename="pascal"):
    """POST /v1/acl/token/onetime."""

    one_time_token: "_OneTimeSecret | None" = None


class _OneTimeSecret(msgspec.Struct):
    secret_id: str = msgspec.field(name="OneTimeSecretID", default="")


class Door:
    """Of one application."""

    def __init__(
        self,
        settings: AccessSettings,
        sessions: Sessions,
        *,
        api: NomadApi | None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the ways that `settings` name.

        Args:
            settings: Of node.toml.
            sessions: Where they begin.
            api: Nomad's, for the ways that ask it; None: they are closed.
            clock: Seconds.
            now: Seconds since 1970, for the expiry of tokens.
        """
        self._settings = settings
        self._sessions = sessions
        self._api = api
        self._attempts = Attempts(clock=clock)
        self._now = now
        self._clock = clock
        self._oidc = None if api is None else Oidc(api, clock=clock)
        self._links: set[bytes] = set()
        self._password_lock = asyncio.Lock()
        self._ways_lock = asyncio.Lock()
        self._ways_known: Ways | None = None
        self._ways_until = 0.0

    async def by_token(self, token: str, visitor: Visitor, *, key: str | None = None) -> str:
        """Return the secret of a new session of a token's owner.

        Args:
            token: Of Nomad.
            visitor: Who brings it.
            key: The secret of the session, if the token itself is brought each time.

        Raises:
            Problem: it is none, guessing has to wait, or Nomad does not answer.
        """
        api = self._nomad()
        self._check_attempts(visitor)
        identity = await self._identify(api, token, visitor)
        secret, session = self._sessions.begin(
            user=identity.user,
            auth="nomad",
            standing=self._standing(identity),
            token=token,
            check=self._check_token,
            key=key,
            idle_s=_HEADER_IDLE_S if key is not None else None,
        )
        self._note_login(session, visitor)
        return secret

    async def by_header(self, token: str, visitor: Visitor) -> Session:
        """Return the session of a program that sends its token with each request.

        Raises:
            Problem: as `by_token`.
        """
        key = f"token {token}"
        found = self._sessions.find(key)
        if found is None:
            await self.by_token(token, visitor, key=key)
            found = self._sessions.find(key)
        if found is None:
            raise not_logged_in("this token does not count any more")
        return found

    async def by_one_time_token(self, text: str, visitor: Visitor) -> str:
        """Return the secret of a new session of whoever has made a one-time token.

        Raises:
            Problem: as `by_token`; a one-time token counts once, for ten minutes.
        """
        api = self._nomad()
        self._check_attempts(visitor)
        if not 0 < len(text) <= _OTT_MAX_CHARS:
            self._refuse(visitor, "this one-time token does not count")
        try:
            answer = await api.post(
                "/v1/acl/token/onetime/exchange",
                {"OneTimeSecretID": text},
                _Exchanged,
                token=None,
            )
        except NomadRefusedError:
            self._refuse(visitor, "this one-time token does not count, or not any more")
        except NomadError as exc:
            raise unreachable(exc) from exc
        if answer.token is None:
            raise unreachable(NomadError("Nomad did not say which token it was"))
        return await self.by_token(answer.token.secret_id, visitor)

    async def make_one_time_token(self, session: Session) -> str:
        """Return a one-time token of Nomad, with which another node's console lets him in.

        Raises:
            Problem: his session has no token of Nomad, or Nomad makes none.
        """
        if session.token is None:
            raise bad_request("you have not logged in with a token of Nomad")
        try:
            made = await self._nomad().post(
                "/v1/acl/token/onetime", {}, _OneTime, token=session.token
            )
        except NomadRefusedError as exc:
            raise forbidden(str(exc)) from exc
        except NomadError as exc:
            raise unreachable(exc) from exc
        if made.one_time_token is None or not made.one_time_token.secret_id:
            raise unreachable(NomadError("Nomad made no one-time token"))
        return made.one_time_token.secret_id

    def make_link(self) -> str:
        """Return the secret of a link that lets one browser in, once."""
        secret = secrets.token_urlsafe(_LINK_BYTES)
        self._links.add(_hash(secret))
        return secret

    def by_link(self, text: str, visitor: Visitor) -> str:
        """Return the secret of a new session for a link that nobody has used.

        Raises:
            Problem: it counts no more.
        """
        if self._settings.auth != "link":
            raise _closed("link")
        self._check_attempts(visitor)
        key = _hash(text)
        if key not in self._links:
            self._refuse(visitor, "this link was used already, or is of an earlier run")
        self._links.discard(key)
        return self._begin("whoever has the link", "link", visitor)

    async def by_password(self, text: str, visitor: Visitor) -> str:
        """Return the secret of a new session for the console's password.

        Raises:
            Problem: it is another one, guessing has to wait, or the file cannot be read.
        """
        path = self._settings.password_file
        if self._settings.auth != "password" or path is None:
            raise _closed("password")
        # One at a time, each counted before the next: an attempt takes memory and a core.
        async with self._password_lock:
            self._check_attempts(visitor)
            is_right = len(text) <= PASSWORD_MAX_CHARS and await to_the_end(
                _is_password, path, text
            )
            if not is_right:
                self._refuse(visitor, "this is not the password")
        return self._begin("whoever has the password", "password", visitor)

    async def ways(self, visitor: Visitor) -> Ways:
        """Return how this visitor can get in. Asks Nomad at most once in `_WAYS_S`."""
        match self._settings.auth:
            case "nomad":
                return await self._nomad_ways(visitor)
            case "open":
                return Ways(ways=("open",))
            case way:
                return Ways(ways=(way,))

    async def _nomad_ways(self, visitor: Visitor) -> Ways:
        async with self._ways_lock:
            if self._clock() >= self._ways_until:
                self._ways_known = await self._ask_ways()
                self._ways_until = self._clock() + _WAYS_S
        found = self._ways_known
        if found is None:
            return Ways(ways=("open",)) if self._is_open_to(visitor) else Ways(why=str(acls_off()))
        return found

    async def _ask_ways(self) -> Ways | None:
        """Return the ways of a Nomad with ACLs; None if it has none."""
        if self._oidc is None or self._api is None:
            return Ways(why="the console does not know where Nomad is")
        try:
            if await are_acls_disabled(self._api):
                return None
            methods = await self._oidc.methods()
        except NomadError as exc:
            return Ways(ways=("token", "ott"), why=str(exc))
        return Ways(
            ways=("token", "ott", *(["oidc"] if methods else [])),
            oidc_methods=tuple(method.name for method in methods),
        )

    def _is_open_to(self, visitor: Visitor) -> bool:
        return self._settings.open_without_acls or visitor.is_local

    @property
    def oidc(self) -> Oidc:
        """Login through a provider.

        Raises:
            Problem: this console has none.
        """
        self._nomad()
        assert self._oidc is not None
        return self._oidc

    async def openly(self, visitor: Visitor) -> str:
        """Return the secret of a new session for anybody, where that is what node.toml says.

        Raises:
            Problem: it does not say so.
        """
        if self._settings.auth == "open":
            return self._begin("anybody", "open", visitor)
        if self._settings.auth != "nomad" or not await self._has_no_acls():
            raise _closed("open")
        if not self._is_open_to(visitor):
            raise acls_off()
        is_for_all = self._settings.open_without_acls
        secret, session = self._sessions.begin(
            user="anybody" if is_for_all else "anybody on this node",
            auth="open",
            standing=Standing(acl=MANAGEMENT),
            check=self._check_no_acls,
            is_local=not is_for_all,
        )
        self._note_login(session, visitor)
        return secret

    async def _has_no_acls(self) -> bool:
        try:
            return await are_acls_disabled(self._nomad())
        except NomadError as exc:
            raise unreachable(exc) from exc

    def _begin(self, user: str, auth: str, visitor: Visitor) -> str:
        secret, session = self._sessions.begin(
            user=user, auth=auth, standing=Standing(acl=MANAGEMENT)
        )
        self._note_login(session, visitor)
        return secret

    async def _check_token(self, session: Session) -> Standing:
        if session.token is None:
            raise not_logged_in("the session has ended")
        try:
            return self._standing(await identify(self._nomad(), session.token))
        except (TokenError, AclsDisabledError) as exc:
            raise not_logged_in("Nomad does not know this token any more") from exc

    async def _check_no_acls(self, _session: Session) -> Standing:
        if not await are_acls_disabled(self._nomad()):
            raise not_logged_in("Nomad has ACLs now")
        return Standing(acl=MANAGEMENT)

    async def _identify(self, api: NomadApi, token: str, visitor: Visitor) -> Identity:
        try:
            return await identify(api, token)
        except TokenError as exc:
            self._refuse(visitor, str(exc))
        except AclsDisabledError as exc:
            raise acls_off() from exc
        except NomadError as exc:
            raise unreachable(exc) from exc

    def _standing(self, identity: Identity) -> Standing:
        if identity.expires_at is None:
            return Standing(acl=identity.acl)
        at = identity.expires_at
        left_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - self._now()
        return Standing(acl=identity.acl, expires_in_s=left_s)

    def _nomad(self) -> NomadApi:
        if self._settings.auth != "nomad" or self._api is None:
            raise _closed("token")
        return self._api

    def _check_attempts(self, visitor: Visitor) -> None:
        wait_s = self._attempts.wait_s(visitor.address)
        if wait_s > 0:
            raise Problem(
                429,
                "too-many-attempts",
                "there were too many wrong attempts",
                hint=f"try again in {int(wait_s) + 1} s",
            )

    def _refuse(self, visitor: Visitor, why: str) -> NoReturn:
        self._attempts.note_wrong(visitor.address)
        audit.note("login refused", peer=visitor.address, reason=why)
        raise not_logged_in(why)

    def _note_login(self, session: Session, visitor: Visitor) -> None:
        audit.note(
            "login",
            user=session.user,
            session=session.id,
            peer=visitor.address,
            auth=session.auth,
        )


def _is_password(path: Path, text: str) -> bool:
    return read_hash(path).is_of(text)


def acls_off() -> Problem:
    """Return the error of whoever is not let in because Nomad has no ACLs."""
    return Problem(
        403,
        "acls-off",
        "Nomad has no ACLs here, so the console lets in only programs on the node itself",
        hint="`ssh -L 5800:localhost:5800 NODE`, then https://localhost:5800; or turn on ACLs",
    )


def _closed(way: str) -> Problem:
    return bad_request(f"this console lets nobody in by {way}", hint="GET /api/v1/login says how")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
