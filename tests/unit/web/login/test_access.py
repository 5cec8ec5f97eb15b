"""Who gets in, what he may do then, and when it ends: the whole access in front of a fake Nomad."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from fakes.console import OTHER, VM, Console, make_browser, running_console
from fakes.fake_nomad import CONTROL, POWER, READ, VIEW, namespaces, token_id

from qemu_node.web.access.settings import AccessSettings

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


async def test_a_logout_in_another_tab_closes_the_socket(
    console: Console, browser: ClientSession
) -> None:
    console.nomad.add_token(TOKEN, Policies=["control"])
    await console.log_in(browser, token=TOKEN)
    ticket = await console.ticket(browser)
    url = f"{console.origin}/api/v1/vms/{VM.vm_id}/screen"
    async with browser.ws_connect(url, origin=console.origin) as ws:
        await ws.send_json({"ticket": ticket})
        assert await ws.receive_str() == "ok"
        async with browser.post(
            f"{console.origin}/api/v1/logout", headers=console.headers()
        ) as reply:
            assert reply.status == 204
        message = await ws.receive(timeout=10)
        assert message.data == 4401
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
