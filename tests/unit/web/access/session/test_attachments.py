"""What goes on for long ends with its session, whatever else goes wrong."""

import asyncio

import pytest
from fakes.web_sessions import make_session

from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.attachments import (
    NOMAD_SILENT,
    SESSION_OVER,
    Attachment,
    Attachments,
)
from qemu_node.web.access.session.sessions import FRESH_MAX_S, Session, Sessions, Standing


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Ends:
    """Attachments, and how they ended."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.has_ended = asyncio.Event()

    def of(self, session: Session) -> Attachment:
        return Attachment(
            session=session, namespace=None, vm_id="", right=Right.SEE, end=self._note
        )

    def _note(self, code: int, _reason: str) -> None:
        self.codes.append(code)
        self.has_ended.set()


def broken(session: Session) -> Attachment:
    def fail(_code: int, _reason: str) -> None:
        raise RuntimeError("a bug")

    return Attachment(session=session, namespace=None, vm_id="", right=Right.SEE, end=fail)


async def test_a_bug_in_the_end_of_one_keeps_no_other_open() -> None:
    session, ends = make_session(), Ends()
    attachments = Attachments(Sessions(idle_s=60, age_s=60))
    async with (
        attachments.attached(broken(session)),
        attachments.attached(ends.of(session)),
        attachments.attached(broken(session)),
    ):
        attachments.end_of(session, "logout")
    assert ends.codes == [SESSION_OVER]


async def test_sessions_are_looked_at_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ends = Clock(), Ends()
    sessions = Sessions(idle_s=60, age_s=60, clock=clock)
    attachments = Attachments(sessions)
    session = make_session()
    session.ends_at = 2000.0
    looks = 0
    find = sessions.end_if_over

    def fail_once(asked: Session) -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("a bug")
        return find(asked)

    monkeypatch.setattr(sessions, "end_if_over", fail_once)
    async with attachments, attachments.attached(ends.of(session)):
        while not looks:
            await asyncio.sleep(0.001)
        clock.at = 2000.0
        async with asyncio.timeout(60):
            await ends.has_ended.wait()
    assert ends.codes[0] == SESSION_OVER


async def test_where_nomad_is_silent_a_client_comes_back_later() -> None:
    clock, ends = Clock(), Ends()
    sessions = Sessions(idle_s=60, age_s=60, clock=clock)

    async def nobody(_session: Session) -> Standing:
        raise AssertionError("it is too late to ask")

    session = make_session()
    session.check, session.checked_at = nobody, clock.at
    attachments = Attachments(sessions)
    async with attachments.attached(ends.of(session)):
        clock.at += FRESH_MAX_S + 1
        attachments.look()
    assert ends.codes == [NOMAD_SILENT]
