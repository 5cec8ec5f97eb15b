"""Streams: they run until their session ends."""

import asyncio

import pytest
from fakes.web_sessions import make_grant

from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.guard import Guard
from qemu_node.web.access.session.attachments import Attachments
from qemu_node.web.access.session.sessions import Session, Sessions
from qemu_node.web.access.session.tickets import Tickets
from qemu_node.web.http.problems import Problem


async def nobody(_token: str, _request: object) -> Session:
    raise AssertionError("nobody asks")


def make_guard() -> tuple[Guard, Attachments]:
    sessions = Sessions(idle_s=60, age_s=60)
    attachments = Attachments(sessions)
    guard = Guard(
        AccessSettings(),
        sessions=sessions,
        tickets=Tickets(),
        attachments=attachments,
        by_token=nobody,
    )
    return guard, attachments


async def test_a_stream_ends_with_its_session_and_no_other() -> None:
    guard, attachments = make_guard()
    first, second = make_grant(), make_grant()
    began, ended = asyncio.Event(), []

    async def stream(name: str, grant: object) -> None:
        async with guard.stream(grant):  # type: ignore[arg-type]
            began.set()
            await asyncio.Event().wait()
        ended.append(name)

    async with asyncio.TaskGroup() as group:
        one = group.create_task(stream("first", first))
        two = group.create_task(stream("second", second))
        await began.wait()
        await asyncio.sleep(0)
        assert first.session.attached == 1
        attachments.end_of(first.session, "logout")
        await one
        assert ended == ["first"]
        assert not two.done()
        attachments.end_of(second.session, "logout")
    assert first.session.attached == 0


async def test_a_stream_that_fails_is_not_taken_for_one_that_ended() -> None:
    guard, _ = make_guard()
    grant = make_grant()
    with pytest.raises(TimeoutError):
        async with guard.stream(grant):
            raise TimeoutError
    assert grant.session.attached == 0


async def test_a_stream_that_is_ending_may_be_ended_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard, attachments = make_guard()
    grant = make_grant()
    began = asyncio.Event()

    async def stream() -> None:
        async with guard.stream(grant):
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                attachments.end_of(grant.session, "logout")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(stream())
        await began.wait()
        attachments.end_of(grant.session, "logout")
        await task
    assert not caplog.records


async def test_a_session_has_so_many_streams() -> None:
    guard, _ = make_guard()
    grant = make_grant()

    async def nest(depth: int) -> None:
        if depth:
            async with guard.stream(grant):
                await nest(depth - 1)

    with pytest.raises(Problem):
        await nest(17)
    assert grant.session.attached == 0
