"""When a session ends, and how old an answer about its rights may be."""

import asyncio

import pytest
from fakes.console import Clock

from qemu_node.web.access.acl.nomadacl import MANAGEMENT, NOTHING
from qemu_node.web.access.acl.nomadapi import NomadError
from qemu_node.web.access.session.sessions import (
    CHECK_AFTER_S,
    FRESH_MAX_S,
    SESSIONS_MAX,
    SESSIONS_OF_USER_MAX,
    Checker,
    Session,
    Sessions,
    Standing,
)
from qemu_node.web.http.problems import Problem, not_logged_in

ALL = Standing(acl=MANAGEMENT)


class Table:
    """Sessions with a clock that the test moves."""

    def __init__(self, *, idle_s: float = 100, age_s: float = 1000) -> None:
        self.clock = Clock()
        self.ended: list[tuple[str, str]] = []
        self.sessions = Sessions(
            idle_s=idle_s,
            age_s=age_s,
            on_end=lambda session, why: self.ended.append((session.user, why)),
            clock=self.clock,
        )

    def begin(
        self, user: str = "anna", standing: Standing = ALL, check: Checker | None = None
    ) -> tuple[str, Session]:
        return self.sessions.begin(user=user, auth="nomad", standing=standing, check=check)


def test_a_session_is_found_by_its_secret_only() -> None:
    table = Table()
    secret, session = table.begin()
    assert table.sessions.find(secret) is session
    assert table.sessions.find(session.id) is None
    assert table.sessions.find("") is None
    assert len(secret) >= 43
    assert secret not in repr(session)


def test_a_session_that_nobody_uses_ends() -> None:
    table = Table(idle_s=100)
    secret, _ = table.begin()
    table.clock.pass_s(99)
    assert table.sessions.find(secret)
    table.clock.pass_s(99)
    assert table.sessions.find(secret)
    table.clock.pass_s(101)
    assert table.sessions.find(secret) is None
    assert table.ended == [("anna", "nobody used it")]


def test_a_session_with_a_stream_is_in_use_until_its_time_is_over() -> None:
    table = Table(idle_s=100, age_s=1000)
    secret, session = table.begin()
    session.attached = 1
    table.clock.pass_s(999)
    assert table.sessions.find(secret)
    table.clock.pass_s(1)
    assert table.sessions.find(secret) is None


def test_a_session_ends_when_its_token_expires() -> None:
    table = Table(age_s=1000)
    secret, _ = table.begin(standing=Standing(acl=MANAGEMENT, expires_in_s=50))
    table.clock.pass_s(50)
    assert table.sessions.find(secret) is None


async def test_rights_are_asked_again_and_those_who_wait_share_the_answer() -> None:
    table = Table()
    asked = 0

    async def check(_session: Session) -> Standing:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return Standing(acl=NOTHING)

    _, session = table.begin(check=check)
    await table.sessions.refresh(session)
    assert asked == 0
    table.clock.pass_s(CHECK_AFTER_S + 1)
    await asyncio.gather(*(table.sessions.refresh(session) for _ in range(20)))
    assert asked == 1
    assert session.acl is NOTHING


async def test_an_agent_that_does_not_answer_is_not_asked_all_the_time() -> None:
    table = Table()
    asked = 0

    async def check(_session: Session) -> Standing:
        nonlocal asked
        asked += 1
        raise NomadError("no answer")

    secret, session = table.begin(check=check)
    table.clock.pass_s(CHECK_AFTER_S + 1)
    for _ in range(10):
        await table.sessions.refresh(session)
    assert asked == 1
    table.clock.pass_s(FRESH_MAX_S)
    with pytest.raises(Problem) as refused:
        await table.sessions.refresh(session)
    assert refused.value.status == 503
    assert table.sessions.find(secret) is session


async def test_a_session_whose_token_counts_no_more_ends() -> None:
    table = Table()

    async def check(_session: Session) -> Standing:
        raise not_logged_in("gone")

    secret, session = table.begin(check=check)
    table.clock.pass_s(CHECK_AFTER_S + 1)
    with pytest.raises(Problem):
        await table.sessions.refresh(session)
    assert table.sessions.find(secret) is None
    assert table.ended == [("anna", "gone")]


def test_an_end_is_told_once() -> None:
    table = Table()
    _, session = table.begin()
    table.sessions.end(session, "logout")
    table.sessions.end(session, "again")
    assert table.ended == [("anna", "logout")]


def test_one_user_has_so_many_sessions_and_the_oldest_goes() -> None:
    table = Table()
    secrets = []
    for _ in range(SESSIONS_OF_USER_MAX + 1):
        secrets.append(table.begin()[0])
        table.clock.pass_s(1)
    assert table.sessions.find(secrets[0]) is None
    assert all(table.sessions.find(secret) for secret in secrets[1:])


@pytest.mark.parametrize("auth", ["open", "password", "link"])
def test_where_all_are_one_user_nobody_puts_another_one_out(auth: str) -> None:
    sessions = Table().sessions
    secrets = [
        sessions.begin(user="anybody", auth=auth, standing=ALL)[0]
        for _ in range(3 * SESSIONS_OF_USER_MAX)
    ]
    assert all(sessions.find(secret) for secret in secrets)


def test_there_are_so_many_sessions() -> None:
    table = Table()
    for number in range(SESSIONS_MAX + 5):
        table.begin(user=f"u{number}")
    assert len(table.sessions.all()) == SESSIONS_MAX
