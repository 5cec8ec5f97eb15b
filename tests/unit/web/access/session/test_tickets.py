"""One use of one VM's screen or serial port."""

import pytest
from fakes.console import Clock
from fakes.web_sessions import make_session

from qemu_node.web.access.session.tickets import TICKET_S, TICKETS_OF_SESSION_MAX, Tickets
from qemu_node.web.http.problems import Problem


def test_a_ticket_is_taken_once() -> None:
    tickets, session = Tickets(clock=Clock()), make_session()
    text = tickets.issue(session, vm_id="a", kind="screen", mode="view")
    assert tickets.take(text, session, vm_id="a", kind="screen") == "view"
    assert tickets.take(text, session, vm_id="a", kind="screen") is None


def test_a_ticket_tried_in_the_wrong_place_is_gone() -> None:
    tickets, session = Tickets(clock=Clock()), make_session()
    text = tickets.issue(session, vm_id="a", kind="screen", mode="control")
    assert tickets.take(text, session, vm_id="b", kind="screen") is None
    assert tickets.take(text, session, vm_id="a", kind="screen") is None


def test_a_session_has_few_tickets_and_old_ones_do_not_count() -> None:
    clock = Clock()
    tickets, session = Tickets(clock=clock), make_session()
    for _ in range(TICKETS_OF_SESSION_MAX):
        tickets.issue(session, vm_id="a", kind="screen", mode="view")
    with pytest.raises(Problem) as refused:
        tickets.issue(session, vm_id="a", kind="screen", mode="view")
    assert refused.value.status == 429
    tickets.issue(make_session(), vm_id="a", kind="screen", mode="view")
    clock.pass_s(TICKET_S)
    assert tickets.issue(session, vm_id="a", kind="screen", mode="view")


def test_tickets_are_long_and_differ() -> None:
    tickets = Tickets(clock=Clock())
    texts = {
        tickets.issue(make_session(), vm_id="a", kind="serial", mode="view") for _ in range(50)
    }
    assert len(texts) == 50
    assert all(len(text) >= 22 for text in texts)
