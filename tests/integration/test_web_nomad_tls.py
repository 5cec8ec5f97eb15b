"""Nomad's API over TLS: whom we trust, with certificates of openssl."""

import ssl
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from qemu_node.host.process.command import run
from qemu_node.web.access.acl import nomadapi
from qemu_node.web.access.acl.nomadapi import NomadApi, NomadError, NomadServer
from qemu_node.web.http.listener import selfmade


async def make_agent(path: Path, host: str = "127.0.0.1") -> TestServer:
    """Return an agent that shows a certificate."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["X-Nomad-Token"])
        return web.json_response(seen)

    app = web.Application()
    app.router.add_get("/v1/x", answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = TestServer(app, scheme="https", host=host)
    await server.start_server(ssl=context)
    return server


async def certificate_of_a_role(directory: Path) -> Path:
    """Return a certificate that names no address, as an operator's own CA may make it."""
    directory.mkdir()
    key, cert = directory / "key.pem", directory / "cert.pem"
    # fmt: off
    await run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", "2", "-subj", "/CN=node", "-keyout", str(key), "-out", str(cert),
        "-addext", "subjectAltName = DNS:client.global.nomad",
    ])
    # fmt: on
    both = directory / "both.pem"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


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


async def test_the_agent_of_this_node_needs_no_address_in_its_certificate(tmp_path: Path) -> None:
    of_role = await certificate_of_a_role(tmp_path / "role")
    other = await certificate_of_a_role(tmp_path / "other")
    agent = await make_agent(of_role)
    try:
        address = f"https://127.0.0.1:{agent.port}"
        here = NomadServer(address=address, is_of_this_node=True, ca_file=of_role)
        assert await ask(here) == ["t"]
        # Of another CA, of anybody's, or at an address that somebody has named.
        for refused in (
            NomadServer(address=address, is_of_this_node=True, ca_file=other),
            NomadServer(address=address, is_of_this_node=True),
            NomadServer(address=address, ca_file=of_role),
        ):
            with pytest.raises(NomadError, match="certificate") as caught:
                await ask(refused)
            assert "web.nomad_server_name" in (caught.value.hint or "")
        named = NomadServer(address=address, ca_file=of_role, server_name="client.global.nomad")
        assert await ask(named) == ["t", "t"]
    finally:
        await agent.close()


async def test_the_agent_of_this_node_is_found_where_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nomadapi, "own_addresses", lambda: ["::1", "127.0.0.3"])
    of_role = await certificate_of_a_role(tmp_path / "role")
    agent = await make_agent(of_role, host="127.0.0.3")
    try:
        address = f"https://127.0.0.1:{agent.port}"
        here = NomadServer(address=address, is_of_this_node=True, ca_file=of_role)
        async with NomadApi(here) as api:
            for count in (1, 2):
                assert len(await api.get("/v1/x", list[str], token="t")) == count
        with pytest.raises(NomadError, match=address):
            await ask(NomadServer(address=address, ca_file=of_role))
    finally:
        await agent.close()


async def test_an_agent_that_speaks_no_tls_is_named_as_such(tmp_path: Path) -> None:
    ca = await certificate_of_a_role(tmp_path / "role")
    async with TestServer(web.Application()) as agent:
        here = NomadServer(address=f"https://127.0.0.1:{agent.port}", ca_file=ca)
        with pytest.raises(NomadError) as caught:
            await ask(here)
        assert "speaks http" in (caught.value.hint or "")
