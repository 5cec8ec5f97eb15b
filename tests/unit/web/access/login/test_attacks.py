"""What somebody may try who is not who he says, or makes another's browser try it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError
from fakes.console import OTHER, VM, Console, make_browser, running_console
from fakes.fake_nomad import CONTROL, EXPIRED, READ, VIEW, namespaces, token_id
from yarl import URL

from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.guard import BAD_TICKET
from qemu_node.web.access.login.attempts import OF_ADDRESS_MAX
from qemu_node.web.access.session.attachments import (
    NOMAD_SILENT,
    OF_SESSION_AND_VM_MAX,
    OF_USER_AND_VM_MAX,
    RIGHT_LOST,
    SESSION_OVER,
)
from qemu_node.web.access.session.sessions import CHECK_AFTER_S, FRESH_MAX_S
from qemu_node.web.access.session.tickets import TICKET_S

TOKEN = token_id(1)
EVIL = "https://evil.example"
SCREEN = f"/api/v1/vms/{VM.vm_id}/screen"
RESET = f"/api/v1/vms/{VM.vm_id}/reset"


@pytest.fixture
async def console() -> AsyncIterator[Console]:
    async with running_console() as console:
        console.nomad.policies = {
            "read": namespaces(default=READ),
            "view": namespaces(default=VIEW),
            "control": namespaces(default=CONTROL),
        }
        console.nomad.add_token(TOKEN, Policies=["control"])
        yield console


@pytest.fixture
async def browser(console: Console) -> AsyncIterator[ClientSession]:
    """The browser of somebody who is logged in."""
    async with make_browser() as browser:
        await console.log_in(browser, token=TOKEN)
        yield browser


async def status(browser: ClientSession, method: str, url: str | URL, **options: object) -> int:
    async with browser.request(method, url, **options) as reply:  # type: ignore[arg-type]
        return reply.status


async def handshake(browser: ClientSession, console: Console, **headers: str) -> int:
    """Return the status of the answer to an upgrade: 101 if there is a socket."""
    try:
        async with browser.ws_connect(f"{console.origin}{SCREEN}", headers=headers):
            return 101
    except WSServerHandshakeError as exc:
        return exc.status


async def first_answer(ws: aiohttp.ClientWebSocketResponse) -> object:
    """Return the text, or the close code, that follows the first message."""
    message = await ws.receive(timeout=30)
    return message.data


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "{own}", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "{own}", "Sec-Fetch-Site": "same-site"},
        {"Origin": "{own}.evil.example"},
    ],
)
async def test_no_other_page_opens_a_socket_with_the_browsers_cookie(
    console: Console, browser: ClientSession, headers: dict[str, str]
) -> None:
    headers = {name: value.format(own=console.origin) for name, value in headers.items()}
    assert await handshake(browser, console, **headers) == 403


async def test_without_a_cookie_there_is_no_socket_even_with_a_ticket(
    console: Console, browser: ClientSession
) -> None:
    _ = await console.ticket(browser)
    async with make_browser() as stranger:
        assert await handshake(stranger, console, Origin=console.origin) == 401
        many = [handshake(stranger, console, Origin=console.origin) for _ in range(1000)]
        assert set(await asyncio.gather(*many)) == {401}


async def test_a_program_with_a_token_needs_no_origin(console: Console) -> None:
    async with make_browser() as program:
        assert await handshake(program, console, **{"X-Nomad-Token": TOKEN}) == 101
        both = {"X-Nomad-Token": TOKEN, "Origin": EVIL}
        assert await handshake(program, console, **both) == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "{own}"},
        {"X-QN": "1"},
        {"Origin": EVIL, "X-QN": "1"},
        {"Origin": "{own}", "X-QN": "1", "Sec-Fetch-Site": "cross-site"},
    ],
    ids=["nothing", "no-header", "no-origin", "wrong-origin", "cross-site"],
)
@pytest.mark.parametrize("path", [RESET, f"/api/v1/vms/{VM.vm_id}/ticket", "/api/v1/handover"])
async def test_no_other_page_changes_anything_with_the_browsers_cookie(
    console: Console, browser: ClientSession, headers: dict[str, str], path: str
) -> None:
    headers = {name: value.format(own=console.origin) for name, value in headers.items()}
    assert await status(browser, "POST", console.origin + path, headers=headers, data="") == 403


async def test_no_other_page_logs_a_browser_out_or_in(
    console: Console, browser: ClientSession
) -> None:
    for path in ("/api/v1/logout", "/api/v1/login"):
        headers = {"Origin": EVIL, "X-QN": "1"}
        url = console.origin + path
        assert await status(browser, "POST", url, headers=headers, json={"token": TOKEN}) == 403
    assert await status(browser, "GET", f"{console.origin}/api/v1/session") == 200


async def test_an_image_on_another_page_gets_nothing(
    console: Console, browser: ClientSession
) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert await status(browser, "GET", f"{console.origin}/api/v1/vms", headers=headers) == 403


async def test_a_name_that_others_made_lead_here_is_refused(
    console: Console, browser: ClientSession
) -> None:
    for host in ("evil.example", "evil.example:5800", "localhost.evil.example"):
        headers = {"Host": host}
        assert await status(browser, "GET", f"{console.origin}/api/v1/vms", headers=headers) == 421


@pytest.mark.parametrize("name", ["token", "ticket", "ott", "password", "Token", "link"])
async def test_a_secret_in_a_url_is_refused(
    console: Console, browser: ClientSession, name: str
) -> None:
    url = f"{console.origin}/api/v1/vms?{name}={TOKEN}"
    assert await status(browser, "GET", url) == 400


async def test_a_ticket_is_good_for_its_session_vm_and_kind_only(
    console: Console, browser: ClientSession
) -> None:
    async with make_browser() as other_browser:
        await console.log_in(other_browser, token=TOKEN)
        stolen = await console.ticket(browser)
        for user, text in ((other_browser, stolen), (browser, "guessed")):
            url = f"{console.origin}{SCREEN}"
            async with user.ws_connect(url, origin=console.origin) as ws:
                await ws.send_json({"ticket": text})
                assert await first_answer(ws) == BAD_TICKET
        # Who has tried it has used it.
        async with browser.ws_connect(f"{console.origin}{SCREEN}", origin=console.origin) as ws:
            await ws.send_json({"ticket": stolen})
            assert await first_answer(ws) == BAD_TICKET
    assert console.heard == []


async def test_a_ticket_for_the_serial_port_opens_no_screen(
    console: Console, browser: ClientSession
) -> None:
    url = f"{console.origin}/api/v1/vms/{VM.vm_id}/ticket"
    body = {"kind": "serial", "mode": "control"}
    async with browser.post(url, json=body, headers=console.headers()) as reply:
        ticket = (await reply.json())["ticket"]
    async with browser.ws_connect(f"{console.origin}{SCREEN}", origin=console.origin) as ws:
        await ws.send_json({"ticket": ticket})
        assert await first_answer(ws) == BAD_TICKET


async def test_a_ticket_that_is_too_old_is_not_good(
    console: Console, browser: ClientSession
) -> None:
    ticket = await console.ticket(browser)
    console.now(TICKET_S)
    async with browser.ws_connect(f"{console.origin}{SCREEN}", origin=console.origin) as ws:
        await ws.send_json({"ticket": ticket})
        assert await first_answer(ws) == BAD_TICKET


@pytest.mark.parametrize(
    "message", ["", "{}", "[]", "null", '{"ticket": 1}', '{"ticket": "a", "x": 1}', "[" * 9999]
)
async def test_a_first_message_that_is_no_ticket_ends_the_socket(
    console: Console, browser: ClientSession, message: str
) -> None:
    async with browser.ws_connect(f"{console.origin}{SCREEN}", origin=console.origin) as ws:
        await ws.send_str(message)
        assert await first_answer(ws) == BAD_TICKET


async def test_a_frame_that_is_too_large_ends_the_socket(
    console: Console, browser: ClientSession
) -> None:
    ticket = await console.ticket(browser)
    async with browser.ws_connect(f"{console.origin}{SCREEN}", origin=console.origin) as ws:
        await ws.send_json({"ticket": ticket})
        assert await first_answer(ws) == "ok"
        await ws.send_bytes(bytes((1 << 20) + 1))
        message = await ws.receive(timeout=30)
        assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)
    assert console.heard == []


async def test_nobody_opens_more_sockets_than_he_may(
    console: Console, browser: ClientSession
) -> None:
    async with Many(browser, console, OF_SESSION_AND_VM_MAX):
        answers = [handshake(browser, console, Origin=console.origin) for _ in range(100)]
        assert set(await asyncio.gather(*answers)) == {429}
    assert await handshake(browser, console, Origin=console.origin) == 101


class Many:
    """So many sockets that send nothing."""

    def __init__(self, browser: ClientSession, console: Console, count: int) -> None:
        self.browser, self.console, self.count = browser, console, count
        self.sockets: list[aiohttp.ClientWebSocketResponse] = []

    async def __aenter__(self) -> "Many":
        for _ in range(self.count):
            url = f"{self.console.origin}{SCREEN}"
            self.sockets.append(await self.browser.ws_connect(url, origin=self.console.origin))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for ws in self.sockets:
            await ws.close()


async def test_the_vm_of_another_namespace_does_not_exist(
    console: Console, browser: ClientSession
) -> None:
    for vm_id in (OTHER.vm_id, "nothing-0123456789"):
        url = f"{console.origin}/api/v1/vms/{vm_id}"
        answers = []
        for method, path in (("POST", "reset"), ("POST", "ticket"), ("GET", "screen")):
            async with browser.request(
                method, f"{url}/{path}", headers=console.headers(), json={"kind": 1}
            ) as reply:
                text = (await reply.text()).replace(vm_id, "VM")
                answers.append((reply.status, text))
        assert {answer[0] for answer in answers} == {404}
        assert len({answer[1] for answer in answers}) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/vms/..%2f..%2fetc%2fpasswd/screen",
        "/api/v1/vms/%2e%2e/screen",
        "/api/v1/vms/..%5c..%5cx/screen",
        "/api/v1/vms/%00/screen",
        "/api/v1/vms//screen",
        "/api/v1/vms/..%2f../qm",
    ],
)
async def test_a_path_in_an_id_leads_nowhere(
    console: Console, browser: ClientSession, path: str
) -> None:
    url = URL(console.origin + path, encoded=True)
    assert await status(browser, "GET", url, headers={"Origin": console.origin}) in (400, 404)


async def test_who_may_only_look_gets_no_ticket_to_type(console: Console) -> None:
    console.nomad.add_token(token_id(2), Policies=["view"])
    async with make_browser() as browser:
        await console.log_in(browser, token=token_id(2))
        url = f"{console.origin}/api/v1/vms/{VM.vm_id}/ticket"
        body = {"kind": "screen", "mode": "control"}
        assert await status(browser, "POST", url, json=body, headers=console.headers()) == 403
        ticket = await console.ticket(browser, mode="view")
        async with browser.ws_connect(f"{console.origin}{SCREEN}", origin=console.origin) as ws:
            await ws.send_json({"ticket": ticket})
            assert await first_answer(ws) == "ok"


async def test_a_right_that_was_taken_before_the_upgrade_is_gone(
    console: Console, browser: ClientSession
) -> None:
    ticket = await console.ticket(browser)
    console.nomad.policies["control"] = namespaces(default=VIEW)
    console.now(CHECK_AFTER_S + 1 - TICKET_S + 28)
    async with browser.ws_connect(f"{console.origin}{SCREEN}", origin=console.origin) as ws:
        console.now(2)
        await ws.send_json({"ticket": ticket})
        assert await first_answer(ws) in (RIGHT_LOST, BAD_TICKET)
    assert console.heard == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("revoked", SESSION_OVER),
        ("less", RIGHT_LOST),
        ("expired", SESSION_OVER),
        ("unreachable", NOMAD_SILENT),
    ],
)
async def test_a_socket_ends_with_the_right_to_it(
    console: Console, browser: ClientSession, change: str, code: int
) -> None:
    ticket = await console.ticket(browser)
    async with browser.ws_connect(f"{console.origin}{SCREEN}", origin=console.origin) as ws:
        await ws.send_json({"ticket": ticket})
        assert await first_answer(ws) == "ok"
        match change:
            case "revoked":
                console.nomad.tokens.clear()
                console.now(CHECK_AFTER_S + 1)
            case "less":
                console.nomad.policies["control"] = namespaces(default=READ)
                console.now(CHECK_AFTER_S + 1)
            case "expired":
                console.now(50_000)
            case _:
                console.nomad.broken = (500, "no leader")
                console.now(FRESH_MAX_S + 1)
        assert await first_answer(ws) == code


async def test_nothing_can_be_done_with_a_token_that_was_revoked(
    console: Console, browser: ClientSession
) -> None:
    console.nomad.tokens.clear()
    console.now(CHECK_AFTER_S + 1)
    url = f"{console.origin}/api/v1/vms"
    assert await status(browser, "GET", url) == 401
    console.nomad.add_token(TOKEN, Policies=["control"])
    assert await status(browser, "GET", url) == 401


async def test_an_agent_that_does_not_answer_lets_nobody_in_and_earlier_ones_a_minute(
    console: Console, browser: ClientSession
) -> None:
    url = f"{console.origin}/api/v1/vms"
    console.nomad.broken = (500, "rpc error: no cluster leader")
    async with make_browser() as late:
        body = {"token": token_id(1)}
        login = f"{console.origin}/api/v1/login"
        assert await status(late, "POST", login, json=body, headers=console.headers()) == 503
    console.now(CHECK_AFTER_S + 1)
    assert await status(browser, "GET", url) == 200
    console.now(FRESH_MAX_S - CHECK_AFTER_S)
    assert await status(browser, "GET", url) == 503
    console.nomad.broken = None
    console.now(6)
    assert await status(browser, "GET", url) == 200


@pytest.mark.parametrize("token", ["", "x", EXPIRED, token_id(9), "a\nb", "ä", "x" * 9999])
async def test_what_is_no_token_lets_nobody_in(console: Console, token: str) -> None:
    async with make_browser() as browser:
        body = {"token": token}
        url = f"{console.origin}/api/v1/login"
        async with browser.post(url, json=body, headers=console.headers()) as reply:
            assert reply.status == 401
            assert "Set-Cookie" not in reply.headers


async def test_a_token_without_acls_lets_nobody_in(console: Console) -> None:
    console.nomad.has_acls = False
    async with make_browser() as browser:
        url = f"{console.origin}/api/v1/login"
        assert (
            await status(browser, "POST", url, json={"token": TOKEN}, headers=console.headers())
            == 403
        )


async def test_guessing_has_to_wait(console: Console) -> None:
    async with make_browser() as browser:
        url = f"{console.origin}/api/v1/login"
        answers = [
            await status(
                browser, "POST", url, json={"token": token_id(99)}, headers=console.headers()
            )
            for _ in range(OF_ADDRESS_MAX + 2)
        ]
        assert answers == [401] * OF_ADDRESS_MAX + [429] * 2
        headers = {"X-Nomad-Token": token_id(98)}
        assert await status(browser, "GET", f"{console.origin}/api/v1/vms", headers=headers) == 429
        console.now(61)
        await console.log_in(browser, token=TOKEN)


async def test_without_acls_only_this_node_itself_is_let_in() -> None:
    async with running_console() as console, make_browser() as browser:
        console.nomad.has_acls = False
        await console.log_in(browser, open=True)
        url = f"{console.origin}/api/v1/vms"
        assert await status(browser, "GET", url) == 200
        proxied = {"X-Forwarded-For": "10.0.0.1"}
        assert await status(browser, "GET", url, headers=proxied) == 401
        login = f"{console.origin}/api/v1/login"
        headers = console.headers(**proxied)
        assert await status(browser, "POST", login, json={"open": True}, headers=headers) == 403
        # Nomad has got ACLs.
        console.nomad.has_acls = True
        console.now(CHECK_AFTER_S + 1)
        assert await status(browser, "GET", url) == 401


async def test_an_error_is_never_taken_for_nomad_without_acls(console: Console) -> None:
    url = f"{console.origin}/api/v1/login"
    for broken in ((400, "ACL support disabled"), (500, "x"), (200, "{}"), (200, "no JSON")):
        console.nomad.broken = broken
        async with make_browser() as browser:
            answer = await status(
                browser, "POST", url, json={"open": True}, headers=console.headers()
            )
            assert answer in (400, 503)


async def test_a_cookie_is_for_this_page_only_and_no_script_reads_it(console: Console) -> None:
    async with make_browser() as browser:
        url = f"{console.origin}/api/v1/login"
        async with browser.post(url, json={"token": TOKEN}, headers=console.headers()) as reply:
            cookie = reply.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert TOKEN not in cookie
            assert TOKEN not in await reply.text()


@pytest.mark.parametrize("path", ["/", "/api/v1/vms", "/nowhere", "/api/v1/login"])
async def test_every_answer_has_the_headers_also_errors(console: Console, path: str) -> None:
    async with make_browser() as browser, browser.get(console.origin + path) as reply:
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_no_secret_is_in_a_log_line(
    console: Console, browser: ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    ticket = await console.ticket(browser)
    async with browser.ws_connect(f"{console.origin}{SCREEN}", origin=console.origin) as ws:
        await ws.send_json({"ticket": ticket})
        assert await first_answer(ws) == "ok"
        await ws.send_bytes(b"typed secret")
        assert await ws.receive_bytes() == b"typed secret"
    assert await status(browser, "POST", console.origin + RESET, headers=console.headers()) == 403
    records = [record for record in caplog.records if record.name == "qemu_node.audit"]
    said = [str(vars(record)) for record in records]
    assert {"opened", "allowed", "refused"} <= {record.message for record in records}
    assert all("anna" in line and VM.vm_id in line for line in said)
    assert not any(secret in line for line in said for secret in (TOKEN, ticket, "typed secret"))


async def test_whoever_is_let_in_by_a_link_needs_no_nomad() -> None:
    async with (
        running_console(AccessSettings(auth="link")) as console,
        make_browser() as browser,
    ):
        console.nomad.broken = (500, "x")
        await console.log_in(browser, link=console.access.door.make_link())
        console.now(10_000)
        # Nobody has used it for long.
        assert await status(browser, "GET", f"{console.origin}/api/v1/vms") == 401
        url = f"{console.origin}/api/v1/login"
        body = {"token": TOKEN}
        assert await status(browser, "POST", url, json=body, headers=console.headers()) == 400


async def test_nobody_floods_the_log_with_what_he_may_not_do(
    console: Console, browser: ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    console.nomad.policies["control"] = namespaces(default=READ)
    console.now(CHECK_AFTER_S + 1)
    caplog.set_level("INFO", "qemu_node.audit")
    caplog.clear()
    url = console.origin + RESET
    found = [await status(browser, "POST", url, headers=console.headers()) for _ in range(150)]
    assert found == [403] * 100 + [429] * 50
    assert len(caplog.records) == 100
    console.now(1.0)
    assert await status(browser, "POST", console.origin + RESET, headers=console.headers()) == 403


async def test_many_sessions_of_one_user_share_the_viewers_of_a_vm(console: Console) -> None:
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(OF_USER_AND_VM_MAX // OF_SESSION_AND_VM_MAX + 1):
            browser = await stack.enter_async_context(make_browser())
            await console.log_in(browser, token=TOKEN)
            for _ in range(OF_SESSION_AND_VM_MAX):
                try:
                    ws = await browser.ws_connect(
                        f"{console.origin}{SCREEN}", origin=console.origin
                    )
                except WSServerHandshakeError as exc:
                    found.append(exc.status)
                else:
                    found.append(101)
                    stack.push_async_callback(ws.close)
        assert found == [101] * OF_USER_AND_VM_MAX + [429] * OF_SESSION_AND_VM_MAX


async def test_whoever_asks_again_and_again_whether_it_is_open_is_refused(console: Console) -> None:
    url, body = f"{console.origin}/api/v1/login", {"open": True}
    async with make_browser() as stranger:
        found = [
            await status(stranger, "POST", url, json=body, headers=console.headers())
            for _ in range(OF_ADDRESS_MAX + 1)
        ]
    assert found == [400] * OF_ADDRESS_MAX + [429]


async def test_requests_of_one_program_at_once_are_one_session(console: Console) -> None:
    async with make_browser() as program:
        url, headers = f"{console.origin}/api/v1/vms", {"X-Nomad-Token": TOKEN}
        many = [status(program, "GET", url, headers=headers) for _ in range(20)]
        assert set(await asyncio.gather(*many)) == {200}
    assert len(console.access.sessions.all()) == 1
