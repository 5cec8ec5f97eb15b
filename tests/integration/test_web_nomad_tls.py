"""Nomad's API over TLS: whom we trust, with certificates of openssl."""

import ssl
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from qemu_node.web.access.acl.nomadapi import NomadApi, NomadError, NomadServer
from qemu_node.web.http.listener import selfmade


async def make_agent(path: Path) -> TestServer:
    """Return an agent that shows a certificate."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["X-Nomad-Token"])
        return web.json_response(seen)

    app = web.Application()
    app.router.add_get("/v1/x", answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    return server


async def ask(server: NomadServer) -> list[str]:
    async with NomadApi(server) as api:
        return await api.get("/v1/x", list[str], token="t")


async def test_the_token_goes_to_an_agent_whose_ca_is_named_and_to_no_other(
    tmp_path: Path,
) -> None:
    ours = await selfmade.ensure(tmp_path / "ours", ["localhost", "client.global.nomad"])
    other = await selfmade.ensure(tmp_path / "other", ["localhost"])
    agent = await make_agent(ours)
    try:
        port = agent.port
        by_name = f"https://localhost:{port}"
        assert await ask(NomadServer(address=by_name, ca_file=ours)) == ["t"]
        for ca in (None, other):
            with pytest.raises(NomadError, match="certificate"):
                await ask(NomadServer(address=by_name, ca_file=ca))
        assert len(await ask(NomadServer(address=by_name, ca_file=ours))) == 2
        named = NomadServer(address=by_name, ca_file=ours, server_name="client.global.nomad")
        assert len(await ask(named)) == 3
        wrong = NomadServer(address=by_name, ca_file=ours, server_name="server.global.nomad")
        with pytest.raises(NomadError):
            await ask(wrong)
    finally:
        await agent.close()
