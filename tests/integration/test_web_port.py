"""The console's port with real sockets, TLS and openssl."""

import asyncio
import contextlib
import itertools
import os
import resource
import socket
import ssl
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import aiohttp
import pytest
from aiohttp import web

from qemu_node.errors import HostError
from qemu_node.host.process.command import run
from qemu_node.web.http.listener import openers, port, selfmade
from qemu_node.web.http.listener.port import Port, listen
from qemu_node.web.http.listener.tls import Certificate, CertificateFiles

HELLO = "hello over https"


async def own_certificate(directory: Path) -> Certificate:
    path = await selfmade.ensure(directory, ["node1"])
    return Certificate(CertificateFiles(cert=path, key=None, is_own=True))


def number_of(sockets: list[socket.socket]) -> int:
    number: int = sockets[0].getsockname()[1]
    return number


@contextlib.asynccontextmanager
async def serving(certificate: Certificate | None) -> AsyncGenerator[int]:
    """Serve one page on a port of loopback; give its number."""
    async with running(listen(["127.0.0.1"], 0), certificate) as (number, _):
        yield number


@contextlib.asynccontextmanager
async def running(
    sockets: list[socket.socket], certificate: Certificate | None
) -> AsyncGenerator[tuple[int, web.Server]]:
    """Serve one page on `sockets`; give the port's number and aiohttp's server."""
    app = web.Application()

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=HELLO if request.secure else "hello in clear")

    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=bytes(64 << 20))

    app.router.add_get("/", hello)
    app.router.add_get("/large", large)
    runner = web.AppRunner(app, keepalive_timeout=30)
    await runner.setup()
    assert runner.server is not None
    tls = None if certificate is None else certificate.context
    try:
        async with Port(
            runner.server,
            sockets,
            tls=tls,
            is_own_host=lambda host: host.startswith(("127.0.0.1:", "node1:")),
        ):
            yield number_of(sockets), runner.server
    finally:
        await runner.cleanup()


@pytest.fixture
async def certificate(tmp_path: Path) -> Certificate:
    return await own_certificate(tmp_path / "web")


@pytest.fixture
async def https(certificate: Certificate) -> AsyncIterator[int]:
    async with serving(certificate) as number:
        yield number


def trusting(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate.files.cert)
    context.check_hostname = True
    return context


async def get(number: int, context: ssl.SSLContext) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://127.0.0.1:{number}/", ssl=context) as response,
    ):
        return await response.text()


async def said_in_clear(number: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    try:
        writer.write(text)
        return await reader.read()
    finally:
        writer.close()


async def test_one_port_speaks_tls_and_sends_plain_http_on_to_it(
    https: int, certificate: Certificate
) -> None:
    assert await get(https, trusting(certificate)) == HELLO
    said = await said_in_clear(https, b"GET /vms HTTP/1.1\r\nHost: node1:5800\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 308 ")
    assert b"\r\nLocation: https://node1:5800/vms\r\n" in said
    hostile = await said_in_clear(https, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert hostile.startswith(b"HTTP/1.1 403 ")
    assert b"evil" not in hostile


async def test_a_request_in_pieces_and_a_long_one_get_one_answer(https: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", https)
    for piece in (b"GET", b" / HTTP/1.1\r\nHo", b"st: node1:1\r\n", b"\r\n"):
        writer.write(piece)
        await writer.drain()
    assert (await reader.read()).startswith(b"HTTP/1.1 308 ")
    writer.close()
    assert (await said_in_clear(https, b"G" * 20_000)).startswith(b"HTTP/1.1 403 ")


async def test_without_tls_the_page_itself_is_served() -> None:
    async with serving(None) as number:
        said = await said_in_clear(
            number, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
        assert said.endswith(b"hello in clear")


async def test_whoever_connects_again_and_again_keeps_nobody_from_his_turn() -> None:
    sockets = listen(["127.0.0.1"], 0)
    # The kernel completes the connections before anybody accepts them.
    clients = [socket.create_connection(("127.0.0.1", number_of(sockets))) for _ in range(30)]
    counts: list[int] = []
    async with running(sockets, None) as (_, server):
        while len(server.connections) < len(clients):
            counts.append(len(server.connections))
            await asyncio.sleep(0)
    for client in clients:
        client.close()
    assert max(after - before for before, after in itertools.pairwise([*counts, 30])) < 10


async def test_who_opens_slowly_is_given_up_and_keeps_nobody_out(
    https: int, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "_OPEN_MAX_S", 0.3)
    silent = [await asyncio.open_connection("127.0.0.1", https) for _ in range(20)]
    # The beginning of a handshake, and no more.
    half = await asyncio.open_connection("127.0.0.1", https)
    half[1].write(b"\x16\x03\x01")
    assert await get(https, trusting(certificate)) == HELLO
    for reader, writer in [*silent, half]:
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_who_reads_nothing_is_cut_by_the_kernel(
    https: int, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "UNREAD_MAX_S", 0.5)
    loop = asyncio.get_running_loop()
    context = trusting(certificate)
    with socket.create_connection(("127.0.0.1", https)) as sock:
        sock.setblocking(False)
        transport, protocol = await loop.create_connection(
            asyncio.Protocol, sock=sock, ssl=context, server_hostname="127.0.0.1"
        )
        transport.pause_reading()
        del protocol
        # Answers to more requests than all buffers hold.
        request = b"GET / HTTP/1.1\r\nHost: node1:1\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            while not transport.is_closing():
                transport.write(request * 2000)
                await asyncio.sleep(0.05)
    assert await get(https, trusting(certificate)) == HELLO


async def test_one_address_gets_only_so_many_connections(
    https: int, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openers, "OPENING_OF_ONE_MAX", 5)
    first = [await asyncio.open_connection("127.0.0.1", https) for _ in range(5)]
    reader, writer = await asyncio.open_connection("127.0.0.1", https)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b"", "the sixth is closed at once"
    writer.close()
    for _, other in first:
        other.close()
        await other.wait_closed()
    # They are noticed as gone, one after the other.
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            assert await get(https, trusting(certificate)) == HELLO
            return


async def test_who_reads_nothing_of_an_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "UNREAD_MAX_S", 1.0)
    async with running(listen(["127.0.0.1"], 0), None) as (number, server):
        _, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with asyncio.timeout(60):
            while not server.connections:
                await asyncio.sleep(0.01)
            while server.connections:
                await asyncio.sleep(0.05)
        writer.close()


async def test_connections_in_clear_count_until_they_have_ended(
    https: int, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openers, "OPENING_OF_ONE_MAX", 5)
    first = [await asyncio.open_connection("127.0.0.1", https) for _ in range(5)]
    for _, writer in first:
        writer.write(b"GET / HTTP/1.1\r\n")
    for _ in range(5):
        # Each of them is open by now, and its request is not complete.
        await get_refused(https)
    for _, writer in first:
        writer.write(b"Host: node1:1\r\n\r\n")
    for reader, writer in first:
        assert (await reader.read()).startswith(b"HTTP/1.1 308 ")
        writer.close()
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            assert await get(https, trusting(certificate)) == HELLO
            return


async def get_refused(number: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b"", "one too many is closed at once"
    writer.close()


async def test_without_free_descriptors_it_goes_on_when_there_are_some(
    https: int, certificate: Certificate
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    context = trusting(certificate)
    sock = socket.socket()
    sock.setblocking(False)
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    filler = []
    try:
        with contextlib.suppress(OSError):
            while True:
                filler.append(os.open("/dev/null", os.O_RDONLY))
        # The kernel completes the connection; nobody can accept it.
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", https))
        await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)
    await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: node1:1\r\n\r\n")
    assert (await asyncio.get_running_loop().sock_recv(sock, 100)).startswith(b"HTTP/1.1 308 ")
    sock.close()
    assert await get(https, context) == HELLO


async def test_a_certificate_is_private_and_names_the_node(tmp_path: Path) -> None:
    directory = tmp_path / "web"
    path = await selfmade.ensure(directory, ["node1"])
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in directory.iterdir()] == [path.name]
    argv = ["openssl", "x509", "-in", str(path), "-noout", "-text"]
    text = (await run(argv)).stdout.decode()
    for words in ("prime256v1", "DNS:node1", "DNS:localhost", "IP Address:127.0.0.1", "CA:FALSE"):
        assert words in text
    before = path.read_bytes()
    assert await selfmade.ensure(directory, ["node1"]) == path
    # What a daemon leaves that was killed while it made one is removed with the next.
    (directory / ".new-killed").mkdir()
    (directory / ".new-killed/key.pem").write_text("a key")
    path.write_text("half a file")
    assert await selfmade.ensure(directory, ["node1"]) == path
    assert [entry.name for entry in directory.iterdir()] == [path.name]
    before = path.read_bytes()
    assert path.read_bytes() == before, "a good one stays"


async def test_a_certificate_that_ends_soon_is_made_anew_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "web"
    monkeypatch.setattr(selfmade, "DAYS", 20)
    path = await selfmade.ensure(directory, ["node1"])
    certificate = Certificate(CertificateFiles(cert=path, key=None, is_own=True))
    async with serving(certificate) as number:
        old = trusting(certificate)
        assert await get(number, old) == HELLO
        monkeypatch.setattr(selfmade, "DAYS", 397)
        shown = certificate.fingerprint
        await selfmade.ensure(directory, ["node1"])
        await certificate.look()
        assert certificate.fingerprint != shown
        assert await get(number, trusting(certificate)) == HELLO
        with pytest.raises(aiohttp.ClientError):
            await get(number, old)
        path.write_text("half a file")
        await certificate.look()
        assert certificate.context() is not None, "what worked stays in use"


async def test_a_certificate_of_a_clock_that_was_ahead_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "web"
    path = await selfmade.ensure(directory, ["node1"])
    made_ahead = path.read_bytes()
    set_back = SimpleNamespace(time=lambda: time.time() - 86400)
    monkeypatch.setattr(selfmade, "time", set_back)
    await selfmade.ensure(directory, ["node1"])
    assert path.read_bytes() != made_ahead

    def fail(*_: object, **__: object) -> NoReturn:
        raise HostError("no space left on device")

    monkeypatch.setattr(selfmade, "_make", fail)
    assert await selfmade.ensure(directory, ["node1"]) == path, "it is better than none"


async def test_a_certificate_that_cannot_be_renewed_is_used_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "web"

    def fail(*_: object, **__: object) -> NoReturn:
        raise HostError("no space left on device")

    monkeypatch.setattr(selfmade, "DAYS", 20)
    path = await selfmade.ensure(directory, ["node1"])
    monkeypatch.setattr(selfmade, "write_atomic", fail)
    assert await selfmade.ensure(directory, ["node1"]) == path
    path.write_text("half a file")
    with pytest.raises(HostError, match="no space"):
        await selfmade.ensure(directory, ["node1"])


async def test_a_port_that_is_taken_is_named_with_a_hint(https: int) -> None:
    with pytest.raises(HostError, match=rf"cannot listen on 127\.0\.0\.1:{https}: ") as caught:
        listen(["127.0.0.1"], https)
    assert "ss -ltnp" in (caught.value.hint or "")


def test_all_addresses_are_those_of_ipv4_and_ipv6() -> None:
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        free = probe.getsockname()[1]
        probe.close()
        sockets = [stack.enter_context(sock) for sock in listen([], free)]
        families = {sock.family for sock in sockets}
        assert socket.AF_INET in families
        assert families == {socket.AF_INET, socket.AF_INET6} or not socket.has_ipv6
