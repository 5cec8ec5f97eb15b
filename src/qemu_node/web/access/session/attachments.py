"""What goes on for long in a session: streams of events, screens, serial ports.

Owns that they end with the session: within a second of a logout, when it expires, when Nomad says
no, when the right to their VM is lost. Does not own what they carry (`websocket`, and the parts).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from qemu_node.host.concurrency.flag import Flag
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.sessions import (
    CHECK_AFTER_S,
    FRESH_MAX_S,
    Session,
    Sessions,
)
from qemu_node.web.http.problems import Problem

log = logging.getLogger(__name__)

OF_SESSION_MAX = 8
OF_SESSION_AND_VM_MAX = 4
OF_USER_AND_VM_MAX = 16
"""In all of his sessions: each viewer takes memory of the VM's QEMU, which has a limit."""
STREAMS_OF_SESSION_MAX = 8
_TICK_S = 0.5
_END_S, _END_POLL_S = 2.0, 0.02

GOING_AWAY = 1001
SESSION_OVER = 4401
RIGHT_LOST = 4403
NOMAD_SILENT = 4504
"""Close codes: come again later (RFC 6455 7.4.1); log in again; stay, but not here; come again when
Nomad answers."""


@dataclass(eq=False, slots=True, kw_only=True)
class Attachment:
    """One stream or socket."""

    session: Session
    namespace: str | None
    """Of its VM; None: it concerns all."""
    vm_id: str
    right: Right
    end: Callable[[int, str], object] = field(repr=False)
    """Ends it: close code and reason."""


class Attachments:
    """All of this process, and the loop that ends them; a context."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._all: set[Attachment] = set()
        self._is_used = Flag()
        self._tasks = TaskOwner("attachments")

    async def __aenter__(self) -> "Attachments":
        _ = self._tasks.start(self._watch(), name="attachments")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """End them all: a client comes back when there is a console again.

        Waits a moment for their handlers: aiohttp cancels what is left of them.
        """
        await self._tasks.aclose()
        for attachment in list(self._all):
            _end(attachment, GOING_AWAY, "the console ends")
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                # Nobody tells when the last one leaves.
                while self._all:  # noqa: ASYNC110
                    await asyncio.sleep(_END_POLL_S)

    def end_of(self, session: Session, why: str, *, code: int = SESSION_OVER) -> None:
        """End everything of a session, by default because it has ended."""
        for attachment in [a for a in self._all if a.session is session]:
            _end(attachment, code, why)

    def count_of(self, vm_id: str) -> int:
        """Return how many look at a VM."""
        return sum(attachment.vm_id == vm_id for attachment in self._all)

    @asynccontextmanager
    async def attached(self, attachment: Attachment) -> AsyncIterator[None]:
        """Have an attachment while the block runs.

        Raises:
            Problem: the session has too many.
        """
        own = [a for a in self._all if a.session is attachment.session]
        if attachment.vm_id:
            of_vms = [a for a in own if a.vm_id]
            of_this = sum(a.vm_id == attachment.vm_id for a in of_vms)
            user = attachment.session.user
            of_user = sum(a.vm_id == attachment.vm_id and a.session.user == user for a in self._all)
            is_full = (
                len(of_vms) >= OF_SESSION_MAX
                or of_this >= OF_SESSION_AND_VM_MAX
                or of_user >= OF_USER_AND_VM_MAX
            )
        else:
            is_full = len(own) >= STREAMS_OF_SESSION_MAX + OF_SESSION_MAX
        if is_full:
            raise Problem(
                429,
                "too-many-sockets",
                "you have too many screens and serial ports open",
                hint="close some of them",
            )
        self._all.add(attachment)
        attachment.session.attached += 1
        self._is_used.set()
        try:
            yield
        finally:
            self._all.discard(attachment)
            attachment.session.attached -= 1
            if not self._all:
                self._is_used.clear()

    async def _watch(self) -> None:
        while True:
            await self._is_used.wait()
            try:
                self.look()
            except Exception:
                # Without this loop a token that is revoked would count for ever.
                log.exception("sessions not looked at")
            await asyncio.sleep(_TICK_S)

    def look(self) -> None:
        """End what is over; begin to ask again about those whose rights are not fresh."""
        for session in {attachment.session for attachment in self._all}:
            if self._sessions.end_if_over(session):
                self.end_of(session, "the session has ended")
            elif not self._sessions.is_fresh(session, FRESH_MAX_S):
                self.end_of(session, "Nomad does not say what you may do", code=NOMAD_SILENT)
            elif not self._sessions.is_fresh(session, CHECK_AFTER_S) and not session.lock.locked():
                # Of its own: a Nomad that does not answer must not keep another session open.
                _ = self._tasks.start(self._check(session), name=f"check of session {session.id}")

    async def _check(self, session: Session) -> None:
        try:
            await self._sessions.refresh(session)
        except Problem as exc:
            self.end_of(session, str(exc))
            return
        for attachment in [a for a in self._all if a.session is session]:
            if attachment.namespace is not None and not session.allows(
                attachment.right, attachment.namespace
            ):
                _end(attachment, RIGHT_LOST, "you may not use this VM any more")


def _end(attachment: Attachment, code: int, why: str) -> None:
    """End one; a bug in it keeps none of the others open."""
    try:
        attachment.end(code, why)
    except Exception:
        log.exception("attachment not ended", extra={"vm_id": attachment.vm_id})
