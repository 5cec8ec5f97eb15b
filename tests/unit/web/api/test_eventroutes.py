"""The stream of what changes."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from fakes.published import VM_ID, make_record, publish
from fakes.web_api import READER, ApiUnderTest, running_api

from qemu_node.config.node import Paths
from qemu_node.web.access.acl.nomadacl import Acl
from qemu_node.web.api import eventroutes as module

OTHER = "db-ba9876543210"


async def read_events(response: ClientResponse) -> AsyncGenerator[tuple[str, Any]]:
    """Yield event and data."""
    event = ""
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield event, json.loads(line.removeprefix("data: "))


async def open_stream(api: ApiUnderTest, accepted: str = "gzip") -> ClientResponse:
    response = await api.client.get("/api/v1/events", headers={"Accept-Encoding": accepted})
    assert response.status == 200
    assert response.content_type == "text/event-stream"
    return response


async def test_a_stream_begins_with_who_one_is_and_all_one_may_see(paths: Paths) -> None:
    publish(paths, make_record(paths))
    publish(paths, make_record(paths, OTHER, namespace="secret"))
    async with running_api(paths) as api:
        api.guard.acl = READER
        async with aclosing(read_events(await open_stream(api))) as events:
            assert await anext(events) == (
                "session",
                {"user": "me", "rights": {"default": ["see"]}},
            )
            event, snapshot = await anext(events)
    assert event == "snapshot"
    assert [vm["vm_id"] for vm in snapshot["vms"]] == [VM_ID]
    assert snapshot["vms"][0]["uptime_s"] > 0
    assert snapshot["now"] > 1e9


@pytest.mark.parametrize("accepted", ["gzip, deflate, br", "identity"])
async def test_a_stream_is_packed_for_whoever_takes_it(paths: Paths, accepted: str) -> None:
    publish(paths, make_record(paths))
    async with running_api(paths) as api:
        response = await open_stream(api, accepted)
        encoding = response.headers.get("Content-Encoding")
        assert encoding == ("gzip" if "gzip" in accepted else None)
        async with aclosing(read_events(response)) as events:
            assert [(await anext(events))[0] for _ in range(2)] == ["session", "snapshot"]
            api.fleet.set_thumbnail(VM_ID, "new")
            assert await anext(events) == ("delta", {"changed": {VM_ID: {"thumbnail": "new"}}})


async def test_only_changes_that_one_may_see_are_told(paths: Paths) -> None:
    publish(paths, make_record(paths))
    async with running_api(paths) as api:
        api.guard.acl = READER
        async with aclosing(read_events(await open_stream(api))) as events:
            await anext(events)
            await anext(events)
            publish(paths, make_record(paths, OTHER, namespace="secret"))
            while api.fleet.get(OTHER) is None:
                await asyncio.sleep(0.01)
            api.fleet.set_thumbnail(VM_ID, "7")
            assert await anext(events) == ("delta", {"changed": {VM_ID: {"thumbnail": "7"}}})
            third = "web-abcdefabcdef"
            publish(paths, make_record(paths, third))
            event, delta = await anext(events)
            assert event == "delta"
            assert list(delta["changed"]) == [third]
            assert delta["changed"][third]["uptime_s"] > 0


async def test_a_silent_stream_gives_signs_of_life_and_follows_the_rights(paths: Paths) -> None:
    publish(paths, make_record(paths))
    async with (
        running_api(paths, heartbeat_s=0.2) as api,
        aclosing(read_events(await open_stream(api))) as events,
    ):
        await anext(events)
        await anext(events)
        assert await anext(events) == ("beat", {})
        api.guard.session.acl = Acl(namespaces={})
        while (event := await anext(events)) == ("beat", {}):
            pass
        assert event == ("session", {"user": "me"})
        assert await anext(events) == ("delta", {"gone": [VM_ID]})


async def test_a_stream_ends_with_its_session(paths: Paths) -> None:
    async with (
        running_api(paths) as api,
        aclosing(read_events(await open_stream(api))) as events,
    ):
        await anext(events)
        await anext(events)
        api.guard.streams[0].reschedule(asyncio.get_running_loop().time())
        assert await anext(events) == ("session", {"is_over": True})
        assert [event async for event in events] == []


async def test_a_client_that_leaves_is_not_followed_for(paths: Paths) -> None:
    async with running_api(paths, heartbeat_s=0.05) as api:
        response = await open_stream(api)
        assert api.fleet._board.is_looked_at
        response.close()
        while api.fleet._board.is_looked_at:
            await asyncio.sleep(0.01)


async def open_and_read_nothing(api: ApiUnderTest) -> asyncio.StreamWriter:
    """Ask for a stream whose first message is more than all buffers hold, and do not read it."""
    api.fleet.set_thumbnail(VM_ID, "x" * (32 << 20))
    url = api.client.make_url("/")
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return writer


def connections(api: ApiUnderTest) -> list[web.RequestHandler]:
    runner = api.client.server.runner
    assert runner is not None
    assert runner.server is not None
    return runner.server.connections


def waits(api: ApiUnderTest) -> bool:
    """Tell whether the console waits for the client to read."""
    transports = [connection.transport for connection in connections(api)]
    return any(t is not None and t.get_write_buffer_size() for t in transports)


async def until_closed(api: ApiUnderTest) -> None:
    """Return once the console has no connection any more; the client still reads nothing."""
    async with asyncio.timeout(60):
        while connections(api):
            await asyncio.sleep(0.01)


async def test_a_client_that_does_not_read_is_cut(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_WRITE_TIMEOUT_S", 0.2)
    publish(paths, make_record(paths))
    async with running_api(paths) as api:
        writer = await open_and_read_nothing(api)
        while not waits(api):
            await asyncio.sleep(0.01)
        await until_closed(api)
        writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_session_ends_also_for_a_client_that_does_not_read(paths: Paths) -> None:
    publish(paths, make_record(paths))
    async with running_api(paths) as api:
        writer = await open_and_read_nothing(api)
        while not waits(api):
            await asyncio.sleep(0.01)
        api.guard.streams[0].reschedule(asyncio.get_running_loop().time())
        await until_closed(api)
        writer.close()
