"""Tickets: one use of one VM's screen or serial port by one session.

Owns their life: 128 bits, `TICKET_S`, used once, in this process only. A socket of a browser has
the cookie of its session, which a page of others can make the browser send as well; it does not
have a ticket. In a URL one would be logged: it is in the first message.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qemu_node.web.access.session.sessions import Session
from qemu_node.web.http.problems import Problem

TICKET_S = 30.0
TICKETS_OF_SESSION_MAX = 16
_TICKET_BYTES = 16

Kind = Literal["screen", "serial"]
Mode = Literal["view", "control"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a ticket is good for."""

    session: Session
    vm_id: str
    kind: Kind
    mode: Mode
    until: float


class Tickets:
    """The tickets that nobody has used yet."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tickets: dict[str, Ticket] = {}

    def issue(self, session: Session, *, vm_id: str, kind: Kind, mode: Mode) -> str:
        """Return a new ticket. Whether the session may was asked by the caller.

        Raises:
            Problem: this session has too many that it did not use.
        """
        now = self._clock()
        self._tickets = {
            text: ticket
            for text, ticket in self._tickets.items()
            if ticket.until > now and not ticket.session.is_over
        }
        own = sum(ticket.session is session for ticket in self._tickets.values())
        if own >= TICKETS_OF_SESSION_MAX:
            raise Problem(429, "too-many-tickets", "there are too many tickets that nobody used")
        text = secrets.token_urlsafe(_TICKET_BYTES)
        self._tickets[text] = Ticket(
            session=session, vm_id=vm_id, kind=kind, mode=mode, until=now + TICKET_S
        )
        return text

    def take(self, text: str, session: Session, *, vm_id: str, kind: Kind) -> Mode | None:
        """Return the mode of a ticket, which cannot be used again; None if it is not good here."""
        ticket = self._tickets.pop(text, None)
        if ticket is None or ticket.until <= self._clock():
            return None
        is_right = ticket.session is session and (ticket.vm_id, ticket.kind) == (vm_id, kind)
        return ticket.mode if is_right else None
