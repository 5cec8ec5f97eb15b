"""The ways in, put together: what proves who somebody is becomes a session.

Owns which ways are open (`AccessSettings.auth`, and whether Nomad has ACLs), the limits against
guessing, and links of `qemu-node run`. Does not own cookies and requests (`loginroutes`).

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

from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.web.access import audit
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.nomadacl import MANAGEMENT
from qemu_node.web.access.acl.nomadapi import NomadApi, NomadError, NomadRefusedError
from qemu_node.web.access.acl.nomadtoken import (
    AclsDisabledError,
    Identity,
    TokenError,
    are_acls_disabled,
    identify,
)
from qemu_node.web.access.login import onetime
from qemu_node.web.access.login.attempts import Attempts
from qemu_node.web.access.login.oidc import Oidc
from qemu_node.web.access.login.password import PASSWORD_MAX_CHARS, read_hash
from qemu_node.web.access.login.ways import Visitor, Ways, WaysIn, acls_off
from qemu_node.web.access.session.sessions import Session, Sessions, Standing
from qemu_node.web.http.problems import Problem, bad_request, forbidden, not_logged_in, unreachable

_LINK_BYTES = 16
_HEADER_IDLE_S = 300.0


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
        self._oidc = None if api is None else Oidc(api, clock=clock)
        self._links: set[bytes] = set()
        self._password_lock = asyncio.Lock()
        self._ways = WaysIn(settings, api, self._oidc, clock=clock)

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
        if key is not None and self._sessions.find(key) is not None:
            # The same program has sent several requests at once.
            return key
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
        try:
            token = await onetime.exchange(api, text)
        except NomadRefusedError:
            token = None
        except NomadError as exc:
            raise unreachable(exc) from exc
        if token is None:
            self._refuse(visitor, "this one-time token does not count, or not any more")
        return await self.by_token(token, visitor)

    async def make_one_time_token(self, session: Session) -> str:
        """Return a one-time token of Nomad, with which another node's console lets him in.

        Raises:
            Problem: his session has no token of Nomad, or Nomad makes none.
        """
        if session.token is None:
            raise bad_request("you have not logged in with a token of Nomad")
        try:
            return await onetime.make(self._nomad(), session.token)
        except NomadRefusedError as exc:
            raise forbidden(str(exc)) from exc
        except NomadError as exc:
            raise unreachable(exc) from exc

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
        """Return how this visitor can get in."""
        return await self._ways.find(visitor)

    async def begin_oidc(self, method: str, origin: str, visitor: Visitor) -> tuple[str, str]:
        """Return a provider's address and the secret of this attempt, for a cookie.

        Raises:
            Problem: as `Oidc.begin`; or there were too many wrong attempts.
        """
        oidc = self.oidc
        self._check_attempts(visitor)
        try:
            return await oidc.begin(method, origin, address=visitor.address)
        except Problem as exc:
            if exc.status == 400:
                self._attempts.note_wrong(visitor.address)
            raise

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
        if self._settings.auth != "nomad":
            raise _closed("open")
        self._check_attempts(visitor)
        if not await self._has_no_acls():
            # Counted, for each asks Nomad.
            self._attempts.note_wrong(visitor.address)
            raise _closed("open")
        if not self._ways.is_open_to(visitor):
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


def _closed(way: str) -> Problem:
    return bad_request(f"this console lets nobody in by {way}", hint="GET /api/v1/login says how")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
