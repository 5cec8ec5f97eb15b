"""The session's cookie over https, as browsers want it."""

import ssl
from http.cookies import SimpleCookie
from pathlib import Path

from aiohttp import ClientSession, CookieJar, TCPConnector
from fakes.console import VM, running_console
from fakes.fake_nomad import POWER, namespaces, token_id

from qemu_node.web.http.listener import selfmade

TOKEN = token_id(1)


async def test_over_https_the_cookie_is_of_this_host_alone_and_opens_a_socket(
    tmp_path: Path,
) -> None:
    path = await selfmade.ensure(tmp_path, ["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    trust = ssl.create_default_context(cafile=str(path))
    trust.check_hostname = False
    async with (
        running_console(tls=context) as console,
        ClientSession(
            cookie_jar=CookieJar(unsafe=True), connector=TCPConnector(ssl=trust)
        ) as browser,
    ):
        assert console.origin.startswith("https://")
        console.nomad.policies = {"power": namespaces(default=POWER)}
        console.nomad.add_token(TOKEN, Policies=["power"])
        url = f"{console.origin}/api/v1/login"
        async with browser.post(url, json={"token": TOKEN}, headers=console.headers()) as reply:
            assert reply.status == 200
            cookie = SimpleCookie(reply.headers["Set-Cookie"])["__Host-qn"]
        # A `__Host-` cookie has Secure and Path=/ and no Domain, or browsers drop it (RFC 6265bis).
        assert cookie["secure"]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Strict"
        assert cookie["path"] == "/"
        assert not cookie["domain"]
        plain = {"Origin": console.origin.replace("https:", "http:"), "X-QN": "1"}
        reset = f"{console.origin}/api/v1/vms/{VM.vm_id}/reset"
        async with browser.post(reset, headers=plain) as reply:
            assert reply.status == 403
        async with browser.post(reset, headers=console.headers()) as reply:
            assert reply.status == 204
        ticket = await console.ticket(browser)
        screen = f"{console.origin}/api/v1/vms/{VM.vm_id}/screen"
        async with browser.ws_connect(screen, origin=console.origin) as ws:
            await ws.send_json({"ticket": ticket})
            assert await ws.receive_str() == "ok"
        async with browser.post(
            f"{console.origin}/api/v1/logout", headers=console.headers()
        ) as reply:
            assert "__Host-qn" in reply.headers["Set-Cookie"]
            assert "Secure" in reply.headers["Set-Cookie"]
