"""Who gets in, what he may do then, and when it ends: the whole access in front of a fake Nomad."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from fakes.console import OTHER, VM, Console, make_browser, running_console
from fakes.fake_nomad import CONTROL, POWER, READ, VIEW, namespaces, token_id

from qemu_node.web.access.access_settings import AccessSettings

TOKEN = token_id(1)


@pytest.fixture
async def console() -> AsyncIterator[Console]:
    async with running_console() as console:
        console.nomad.policies = {
            "read": namespaces(default=READ),
            "view": namespaces(default=VIEW),
            "control": namespaces(default=CONTROL),
            "power": namespaces(default=POWER),
        }
        yield console


@pytest.fixture
async def browser() -> AsyncIterator[ClientSession]:
    async with make_browser() as browser:
        yield browser


async def test_a_token_lets_its_owner_in_with_the_rights_that_nomad_says(
    console: Console, browser: ClientSession
) -> None:
    console.nomad.add_token(TOKEN, Policies=["view"])
    await console.log_in(browser, token=TOKEN)
    async with browser.get(f"{console.origin}/api/v1/vms") as reply:
        assert await reply.json() == [VM.vm_id]
    async with browser.post(
        f"{console.origin}/api/v1/vms/{VM.vm_id}/reset", headers=console.headers()
    ) as reply:
        assert reply.status == 403
        assert "alloc-lifecycle" in (await reply.json())["hint"]
    async with browser.post(
        f"{console.origin}/api/v1/vms/{OTHER.vm_id}/reset", headers=console.headers()
    ) as reply:
        assert reply.status == 404
    async with browser.get(f"{console.origin}/api/v1/node") as reply:
        assert reply.status == 403


async def test_a_ticket_opens_one_socket_and_no_second(
    console: Console, browser: ClientSession
) -> None:
    console.nomad.add_token(TOKEN, Policies=["control"])
    await console.log_in(browser, token=TOKEN)
    ticket = await console.ticket(browser)
    url = f"{console.origin}/api/v1/vms/{VM.vm_id}/screen"
    async with browser.ws_connect(url, origin=console.origin) as ws:
        await ws.send_json({"ticket": ticket})
        assert await ws.receive_str() == "ok"
        await ws.send_bytes(b"a")
        assert await ws.receive_bytes() == b"a"
    async with browser.ws_connect(url, origin=console.origin) as ws:
        await ws.send_json({"ticket": ticket})
        message = await ws.receive()
        assert message.data == 4400
    assert console.heard == [b"a"]


async def test_a_logout_in_another_tab_ends_sockets_and_streams(
    console: Console, browser: ClientSession
) -> None:
    console.nomad.add_token(TOKEN, Policies=["control"])
    await console.log_in(browser, token=TOKEN)
    ticket = await console.ticket(browser)
    url = f"{console.origin}/api/v1/vms/{VM.vm_id}/screen"
    async with (
        browser.ws_connect(url, origin=console.origin) as ws,
        browser.get(f"{console.origin}/api/v1/events") as events,
    ):
        await ws.send_json({"ticket": ticket})
        assert await ws.receive_str() == "ok"
        assert await events.content.readexactly(5) == b"hello"
        async with browser.post(
            f"{console.origin}/api/v1/logout", headers=console.headers()
        ) as reply:
            assert reply.status == 204
        message = await ws.receive(timeout=10)
        assert message.data == 4401
        assert await events.content.read() == b"bye"
    async with browser.get(f"{console.origin}/api/v1/vms") as reply:
        assert reply.status == 401


async def test_a_link_lets_one_browser_in_once() -> None:
    async with (
        running_console(AccessSettings(auth="link")) as console,
        make_browser() as first,
        make_browser() as second,
    ):
        link = console.access.door.make_link()
        await console.log_in(first, link=link)
        async with first.get(f"{console.origin}/api/v1/vms") as reply:
            assert len(await reply.json()) == 2
        async with second.post(
            f"{console.origin}/api/v1/login", json={"link": link}, headers=console.headers()
        ) as reply:
            assert reply.status == 401


async def test_what_is_open_to_everybody_is_about_logging_in(console: Console) -> None:
    open_to_all = {
        (route.method, route.path) for route in console.access.routes() if route.right is None
    }
    assert open_to_all == {
        ("GET", "/api/v1/login"),
        ("POST", "/api/v1/login"),
        ("POST", "/api/v1/login/oidc"),
        ("GET", "/oidc/callback"),
        ("POST", "/api/v1/logout"),
    }


async def test_a_one_time_token_opens_the_console_of_another_node(
    console: Console, browser: ClientSession
) -> None:
    console.nomad.add_token(TOKEN, Policies=["control"])
    await console.log_in(browser, token=TOKEN)
    async with browser.post(
        f"{console.origin}/api/v1/handover", headers=console.headers()
    ) as reply:
        ott = (await reply.json())["ott"]
    async with make_browser() as at_other_node:
        await console.log_in(at_other_node, ott=ott)
        async with at_other_node.post(
            f"{console.origin}/api/v1/login", json={"ott": ott}, headers=console.headers()
        ) as reply:
            assert reply.status == 401


async def test_a_second_login_ends_the_session_before(
    console: Console, browser: ClientSession
) -> None:
    console.nomad.add_token(TOKEN, Policies=["control"])
    await console.log_in(browser, token=TOKEN)
    await console.log_in(browser, token=TOKEN)
    assert len(console.access.sessions.all()) == 1


async def test_a_program_needs_no_login_and_no_cookie(
    console: Console, browser: ClientSession
) -> None:
    console.nomad.add_token(TOKEN, Policies=["control"])
    url = f"{console.origin}/api/v1/vms"
    for headers in ({"X-Nomad-Token": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}):
        async with browser.get(url, headers=headers) as reply:
            assert await reply.json() == [VM.vm_id]
    assert len(console.access.sessions.all()) == 1
    asked = len(console.nomad.asked)
    async with browser.get(url, headers={"X-Nomad-Token": TOKEN}) as reply:
        assert reply.status == 200
    assert len(console.nomad.asked) == asked


async def test_the_end_of_the_console_closes_its_sockets(
    console: Console, browser: ClientSession
) -> None:
    console.nomad.add_token(TOKEN, Policies=["control"])
    await console.log_in(browser, token=TOKEN)
    ticket = await console.ticket(browser)
    url = f"{console.origin}/api/v1/vms/{VM.vm_id}/screen"
    async with browser.ws_connect(url, origin=console.origin) as ws:
        await ws.send_json({"ticket": ticket})
        assert await ws.receive_str() == "ok"
        await console.access.__aexit__(None, None, None)
        message = await ws.receive(timeout=30)
        assert message.data == 1001


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"token": "a", "password": "b"}, 400),
        ({"token": 1}, 400),
        ({"password": "x"}, 400),
        ({"link": "x"}, 400),
        ({"open": False}, 400),
        ({"other": "x"}, 400),
    ],
)
async def test_a_login_is_by_one_way_that_there_is(
    console: Console, browser: ClientSession, body: dict[str, object], status: int
) -> None:
    url = f"{console.origin}/api/v1/login"
    async with browser.post(url, json=body, headers=console.headers()) as reply:
        assert reply.status == status
