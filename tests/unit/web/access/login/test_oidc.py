"""A login through a provider: what the agent is asked, and whose browser it is for."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from fakes.console import Console, make_browser, running_console
from fakes.fake_nomad import POWER, namespaces, token_id

from qemu_node.web.access.login.attempts import OF_ADDRESS_MAX
from qemu_node.web.access.login.oidc import ATTEMPT_S, ATTEMPTS_OF_ADDRESS_MAX
from qemu_node.web.http.problems import Problem

TOKEN = token_id(1)


@pytest.fixture
async def console() -> AsyncIterator[Console]:
    async with running_console() as console:
        console.nomad.policies = {"power": namespaces(default=POWER)}
        console.nomad.add_token(TOKEN, Policies=["power"])
        console.nomad.oidc = {"company": TOKEN}
        yield console


@pytest.fixture
async def browser() -> AsyncIterator[ClientSession]:
    async with make_browser() as browser:
        yield browser


async def begin(console: Console, browser: ClientSession, method: str = "company") -> str:
    """Return the state with which the provider sends the browser back."""
    url = f"{console.origin}/api/v1/login/oidc"
    async with browser.post(url, json={"method": method}, headers=console.headers()) as reply:
        assert reply.status == 200, await reply.text()
        assert (await reply.json())["url"].startswith("https://provider.example/?")
    return console.nomad.oidc_states[-1]


async def come_back(
    console: Console, browser: ClientSession, state: str, code: str = "good"
) -> int:
    url = f"{console.origin}/oidc/callback?state={state}&code={code}&iss=x"
    headers = {"Sec-Fetch-Site": "cross-site"}
    async with browser.get(url, headers=headers, allow_redirects=False) as reply:
        return reply.status


async def is_in(console: Console, browser: ClientSession) -> bool:
    async with browser.get(f"{console.origin}/api/v1/session") as reply:
        return reply.status == 200


async def test_the_page_is_told_which_providers_there_are(
    console: Console, browser: ClientSession
) -> None:
    async with browser.get(f"{console.origin}/api/v1/login") as reply:
        answer = await reply.json()
    assert answer["ways"] == ["token", "ott", "oidc"]
    assert answer["oidc_methods"] == ["company"]


async def test_whom_the_provider_has_named_is_in(console: Console, browser: ClientSession) -> None:
    state = await begin(console, browser)
    assert console.nomad.redirects == [f"{console.origin}/oidc/callback"]
    assert await come_back(console, browser, state) == 303
    assert await is_in(console, browser)


async def test_an_answer_counts_once_and_in_the_browser_that_began(
    console: Console, browser: ClientSession
) -> None:
    state = await begin(console, browser)
    async with make_browser() as victim:
        # A link with the attacker's answer must not log somebody in as the attacker.
        assert await come_back(console, victim, state) == 401
        assert not await is_in(console, victim)
    assert await come_back(console, browser, state) == 303
    assert await come_back(console, browser, state) == 401


@pytest.mark.parametrize("fault", ["state", "late", "code"])
async def test_a_wrong_answer_lets_nobody_in(
    console: Console, browser: ClientSession, fault: str
) -> None:
    state = await begin(console, browser)
    if fault == "late":
        console.now(ATTEMPT_S)
    answer = await come_back(
        console,
        browser,
        "other" if fault == "state" else state,
        "bad" if fault == "code" else "good",
    )
    assert answer == 401
    assert not await is_in(console, browser)


async def test_a_provider_that_nomad_does_not_know_is_refused(
    console: Console, browser: ClientSession
) -> None:
    url = f"{console.origin}/api/v1/login/oidc"
    async with browser.post(url, json={"method": "x"}, headers=console.headers()) as reply:
        assert reply.status == 400
        assert "AllowedRedirectURIs" in (await reply.json())["hint"]


async def test_logins_that_one_address_begins_keep_nobody_else_out(
    console: Console, browser: ClientSession
) -> None:
    oidc = console.access.door.oidc
    for _ in range(ATTEMPTS_OF_ADDRESS_MAX):
        await oidc.begin("company", console.origin, address="192.0.2.1")
    with pytest.raises(Problem) as refused:
        await oidc.begin("company", console.origin, address="192.0.2.1")
    assert refused.value.status == 429
    state = await begin(console, browser)
    assert await come_back(console, browser, state) == 303


async def test_providers_that_are_not_there_are_asked_for_only_so_often(
    console: Console, browser: ClientSession
) -> None:
    url, body = f"{console.origin}/api/v1/login/oidc", {"method": "guessed"}
    found = []
    for _ in range(OF_ADDRESS_MAX + 2):
        async with browser.post(url, json=body, headers=console.headers()) as reply:
            found.append(reply.status)
    assert found == [400] * OF_ADDRESS_MAX + [429] * 2
