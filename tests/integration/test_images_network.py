"""How the node reaches sources: a private CA, and an HTTP proxy."""

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes.image_server import ImageServer

from qemu_node.host.process import command
from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.http.address import AddressPolicy, parse_networks
from qemu_node.images.http.httpfile import HttpFile
from qemu_node.images.http.httpsettings import FetchLimits, HttpSettings
from qemu_node.images.http.small import fetch_text

ONCE = FetchLimits(retries=0)
LOOPBACK = AddressPolicy(allow=parse_networks(["127.0.0.0/8"], "test"))
HOST = "images.test"
"""Resolved by the proxy alone (RFC 6761, 6.2)."""


@pytest.fixture
async def certificate(tmp_path: Path) -> Path:
    """A certificate for HOST and 127.0.0.1 with its key, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "server.pem"
    await command.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", str(tmp_path / "key"), "-out", str(path), "-days", "2",
         "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:127.0.0.1,DNS:{HOST}"],
        timeout_s=60,
    )  # fmt: skip
    return path


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handle: Handler, context: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """Serve each connection with `handle` on a port of the loopback; wait for all at the end."""
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        handlers.add(handler)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await handle(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()


@contextlib.asynccontextmanager
async def https_server(certificate: Path) -> AsyncGenerator[int]:
    """Answer every request on a port, with the path."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))
        await writer.drain()

    async with listening(answer, context) as port:
        yield port


@dataclass
class Proxy:
    """An HTTP proxy that knows HOST alone, and leads it to a port of this machine."""

    target_port: int = 0
    refuses: bool = False
    port: int = 0
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, url, _ = head.split(b"\r\n")[0].decode().split(" ")
        self.asked.append(f"{method} {url}")
        if self.refuses:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        elif method == "CONNECT":
            await self._tunnel(reader, writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nby proxy\n")
            await writer.drain()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_pipe(reader, inner_writer), _pipe(inner_reader, writer))
        with contextlib.suppress(OSError):
            await inner_writer.wait_closed()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncGenerator[Proxy]:
    proxy = Proxy()
    async with listening(proxy.serve) as proxy.port:
        yield proxy


async def fetched(url: str, http: HttpSettings) -> str:
    return await fetch_text(HttpFile(url=url, shown=url), http=http)


async def test_a_private_ca_is_trusted_once_it_is_named(certificate: Path) -> None:
    async with https_server(certificate) as port:
        url = f"https://127.0.0.1:{port}/x"
        with pytest.raises(ImageDownloadError, match=r"certificate of 127\.0\.0\.1 is not trusted"):
            await fetched(url, HttpSettings(limits=ONCE, addresses=LOOPBACK))
        http = HttpSettings(limits=ONCE, addresses=LOOPBACK, ca_file=str(certificate))
        assert await fetched(url, http) == "/x"


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("none", "it holds none")])
async def test_a_ca_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: str | None, why: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ImageDownloadError, match=rf"ca\.pem: {why}"):
        await fetched("https://127.0.0.1:1/x", HttpSettings(ca_file=str(path)))


async def test_a_proxy_is_asked_for_http_and_for_https(certificate: Path, proxy: Proxy) -> None:
    http = HttpSettings(
        limits=ONCE, proxy=f"http://127.0.0.1:{proxy.port}", ca_file=str(certificate)
    )
    assert await fetched(f"http://{HOST}/x", http) == "by proxy\n"
    async with https_server(certificate) as port:
        proxy.target_port = port
        assert await fetched(f"https://{HOST}/y?z", http) == "/y?z"
    assert proxy.asked == [f"GET http://{HOST}/x", f"CONNECT {HOST}:443"]


async def test_no_proxy_is_asked_for_a_host_that_it_is_not_for(
    proxy: Proxy, server: ImageServer
) -> None:
    http = HttpSettings(
        limits=ONCE, addresses=LOOPBACK, proxy=f"http://127.0.0.1:{proxy.port}", no_proxy=(HOST,)
    )
    assert await fetched(server.publish("/SUMS", b"direct"), http) == "direct"
    with pytest.raises(ImageDownloadError, match="cannot be resolved"):
        await fetched(f"http://{HOST}/x", http)
    assert proxy.asked == []


async def test_an_address_that_is_refused_is_refused_with_a_proxy_too(proxy: Proxy) -> None:
    http = HttpSettings(limits=ONCE, proxy=f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(ImageRefusedError, match=r"169\.254\.169\.254, a link-local address"):
        await fetched("http://169.254.169.254/latest/meta-data", http)
    assert proxy.asked == []


async def test_what_is_wrong_with_the_proxy_is_said(proxy: Proxy) -> None:
    http = HttpSettings(limits=ONCE, proxy=f"http://127.0.0.1:{proxy.port}")
    proxy.refuses = True
    with pytest.raises(ImageDownloadError, match="the proxy answered HTTP 403"):
        await fetched(f"https://{HOST}/x", http)
    http = HttpSettings(limits=ONCE, proxy="http://127.0.0.1:1")
    with pytest.raises(ImageDownloadError, match="no connection to the proxy"):
        await fetched(f"https://{HOST}/x", http)


@pytest.fixture
async def server() -> AsyncGenerator[ImageServer]:
    async with ImageServer.running() as server:
        yield server
