"""Who is logged in.

Owns the sessions, in this process only: a restart of the daemon ends them all. A browser has a
random cookie, the table only its hash. Does not own what is asked of Nomad (`Checker`) nor the
cookie's header (`guard`).

A session ends at a logout, when it is idle, at its age, when its token expires or counts no more.
While Nomad does not answer, what it last said counts for `FRESH_MAX_S`.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from qemu_node.errors import NodeError
from qemu_node.web.access.acl.nomadacl import Acl
from qemu_node.web.access.acl.rights import Right, allows
from qemu_node.web.access.session.pace import Pace
from qemu_node.web.http.problems import Problem, not_logged_in

log = logging.getLogger(__name__)

COOKIE_BYTES = 32
FRESH_MAX_S = 60.0
"""How long an answer of Nomad about a token counts."""
CHECK_AFTER_S = 30.0
"""When it is asked again, if it can be asked."""
_PAUSE_S = 5.0
"""Between two questions to a Nomad that does not answer."""
SESSIONS_MAX = 1024
SESSIONS_OF_USER_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a check has found out about somebody."""

    acl: Acl
    expires_in_s: float | None = None


Checker = Callable[["Session"], Awaitable[Standing]]
"""Asks again whether somebody still is who he was.

Raises:
    Problem: not any more; the session ends.
    NomadError: that cannot be found out now.
"""


@dataclass(eq=False, slots=True, kw_only=True)
class Session:
    """Somebody who is logged in."""

    id: str
    """Names it in audit lines; no secret."""
    user: str
    auth: str
    """How he came in: `nomad`, `password`, `link`, `open`."""
    acl: Acl = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Of Nomad; for what is asked in his name."""
    is_local: bool = False
    """Counts only for connections from this node itself."""
    ends_at: float
    """By the clock of `Sessions`."""
    idle_s: float
    used_at: float
    checked_at: float
    ask_again_at: float = 0.0
    """After Nomad did not answer."""
    check: Checker | None = field(default=None, repr=False)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    """Whoever checks his rights; the others wait for the answer."""
    pace: Pace = field(default_factory=Pace, repr=False)
    """Of what is written down about him."""
    attached: int = 0
    """Streams and sockets that belong to it."""
    is_over: bool = False

    def allows(self, right: Right, namespace: str | None) -> bool:
        """Tell whether he has `right` in a namespace; None: on the node."""
        return allows(self.acl, right, namespace)


class Sessions:
    """All sessions of this process."""

    def __init__(
        self,
        *,
        idle_s: float,
        age_s: float,
        on_end: Callable[[Session, str], object] = lambda _session, _why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without sessions.

        Args:
            idle_s: How long one lives without a request, stream or socket.
            age_s: How long it lives at most.
            on_end: Told of each session that has ended, and why.
            clock: Seconds.
        """
        self._idle_s = idle_s
        self._age_s = age_s
        self._on_end = on_end
        self._clock = clock
        self._by_key: dict[bytes, Session] = {}

    def begin(
        self,
        *,
        user: str,
        auth: str,
        standing: Standing,
        token: str | None = None,
        check: Checker | None = None,
        is_local: bool = False,
        key: str | None = None,
        idle_s: float | None = None,
    ) -> tuple[str, Session]:
        """Return a new session and the secret that stands for it.

        Args:
            user: Who it is, for people.
            auth: How he came in.
            standing: His rights.
            token: Of Nomad.
            check: How it is found out whether he still is.
            is_local: Whether it counts only for connections from this node itself.
            key: The secret, if he has brought one (a token in each request).
            idle_s: Instead of the usual one.
        """
        self._make_room(user if auth == "nomad" else None)
        now = self._clock()
        secret = key if key is not None else secrets.token_urlsafe(COOKIE_BYTES)
        session = Session(
            id=secrets.token_hex(4),
            user=user,
            auth=auth,
            acl=standing.acl,
            token=token,
            is_local=is_local,
            ends_at=now + self._age_s,
            idle_s=self._idle_s if idle_s is None else idle_s,
            used_at=now,
            checked_at=now,
            check=check,
        )
        self._take(session, standing, now)
        self._by_key[_hash(secret)] = session
        return secret, session

    def find(self, secret: str) -> Session | None:
        """Return the session of a secret, which is used by this; None if there is none."""
        session = self._by_key.get(_hash(secret))
        if session is None or self.end_if_over(session):
            return None
        session.used_at = self._clock()
        return session

    async def refresh(self, session: Session) -> None:
        """Return when his rights are fresh enough to decide by.

        Raises:
            Problem: the session has ended, or Nomad does not answer and what it said is too old.
        """
        if self.is_fresh(session, CHECK_AFTER_S):
            return
        async with session.lock:
            if not self.is_fresh(session, CHECK_AFTER_S):
                await self._check(session)
        if session.is_over:
            raise not_logged_in("the session has ended")
        if not self.is_fresh(session, FRESH_MAX_S):
            raise Problem(
                503,
                "nomad-unreachable",
                "Nomad does not say what you may do",
                hint="`systemctl status nomad` on the node says whether its agent runs",
            )

    def is_fresh(self, session: Session, limit_s: float) -> bool:
        """Tell whether his rights were found out at most `limit_s` ago, or cannot change."""
        return session.check is None or self._clock() - session.checked_at <= limit_s

    async def _check(self, session: Session) -> None:
        check, began = session.check, self._clock()
        if check is None or session.is_over or began < session.ask_again_at:
            return
        try:
            standing = await check(session)
        except Problem as exc:
            self.end(session, str(exc))
            raise
        except NodeError as exc:
            session.ask_again_at = self._clock() + _PAUSE_S
            log.warning("rights not checked", extra={"session": session.id, "error": exc.explain()})
            return
        # The rights are those of the moment when the question was asked.
        self._take(session, standing, began)

    def _take(self, session: Session, standing: Standing, now: float) -> None:
        session.acl = standing.acl
        session.checked_at = now
        if standing.expires_in_s is not None:
            session.ends_at = min(session.ends_at, now + standing.expires_in_s)

    def may_be_noted(self, session: Session) -> bool:
        """Tell whether something of a session may be written down now, and count it then."""
        return session.pace.take(self._clock())

    def end_if_over(self, session: Session) -> bool:
        """Tell whether a session has ended, which it does here if its time has come."""
        now = self._clock()
        if session.is_over:
            return True
        if now >= session.ends_at:
            self.end(session, "its time is over")
        elif not session.attached and now - session.used_at > session.idle_s:
            self.end(session, "nobody used it")
        return session.is_over

    def left_s(self, session: Session) -> float:
        """Return how long a session can live at most."""
        return max(0.0, session.ends_at - self._clock())

    def all(self) -> list[Session]:
        """Return the sessions that have not ended."""
        return [session for session in list(self._by_key.values()) if not session.is_over]

    def _make_room(self, user: str | None) -> None:
        """End what is too much; `user` None: it is not one person, but who has the password."""
        for session in self.all():
            self.end_if_over(session)
        own = [session for session in self.all() if user is not None and session.user == user]
        if len(own) >= SESSIONS_OF_USER_MAX:
            self.end(min(own, key=_last_use), "he has too many")
        if len(self._by_key) >= SESSIONS_MAX:
            self.end(min(self.all(), key=_last_use), "there are too many")

    def end(self, session: Session, why: str) -> None:
        """End a session. Idempotent."""
        if session.is_over:
            return
        session.is_over = True
        self._by_key = {key: s for key, s in self._by_key.items() if s is not session}
        self._on_end(session, why)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _last_use(session: Session) -> tuple[bool, float]:
    return session.attached > 0, session.used_at
