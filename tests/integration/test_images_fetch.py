"""HTTP downloads from a server that misbehaves."""

import asyncio
import base64
from collections.abc import AsyncGenerator

import pytest
from fakes.image_server import ImageServer, Resource

from qemu_node.images.errors import ImageDownloadError, ImageRefusedError
from qemu_node.images.fetch import FetchLimits, Validators, download, fetch_text
from qemu_node.images.source import UrlSource, parse_url

BODY = bytes(range(256)) * 20_000
QUICK = FetchLimits(connect_s=2.0, stall_s=0.5)


class Collector:
    """A sink in memory."""

    def __init__(self) -> None:
        self.total: int | None = -1
        self.content = b""

    async def expect(self, total_bytes: int | None) -> None:
        self.total = total_bytes

    async def write(self, chunk: bytes) -> None:
        self.content += chunk


@pytest.fixture
async def server() -> AsyncGenerator[ImageServer]:
    async with ImageServer.running() as server:
        yield server


def source(url: str) -> UrlSource:
    return parse_url(url, "image")


async def fetched(
    url: str,
    *,
    known: Validators | None = None,
    max_bytes: int = 1 << 30,
    limits: FetchLimits = FetchLimits(),  # noqa: B008 - frozen
) -> tuple[Validators | None, Collector]:
    sink = Collector()
    validators = await download(source(url), sink, max_bytes=max_bytes, known=known, limits=limits)
    return validators, sink


async def test_file_arrives_whole_with_its_validators(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, etag='"1"', last_modified="yesterday"))
    validators, sink = await fetched(url)
    assert validators == Validators(etag='"1"', last_modified="yesterday")
    assert sink.content == BODY
    assert sink.total == len(BODY)
    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_file_without_a_length_arrives_whole(server: ImageServer) -> None:
    validators, sink = await fetched(server.put("/x", Resource(body=BODY, has_length=False)))
    assert sink.content == BODY
    assert sink.total is None
    assert validators == Validators()


@pytest.mark.parametrize(
    ("known", "header"),
    [
        (Validators(etag='"1"', last_modified="yesterday"), "if-none-match"),
        (Validators(last_modified="yesterday"), "if-modified-since"),
    ],
)
async def test_unchanged_file_is_not_sent_again(
    server: ImageServer, known: Validators, header: str
) -> None:
    url = server.put("/x", Resource(body=BODY, etag=known.etag, last_modified="yesterday"))
    validators, sink = await fetched(url, known=known)
    assert validators is None
    assert sink.total == -1
    assert header in server.requests[0].headers


async def test_answer_not_modified_to_a_plain_request_is_refused(server: ImageServer) -> None:
    with pytest.raises(ImageRefusedError, match="HTTP 304"):
        await fetched(server.put("/x", Resource(status=304)))


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (Resource(body=BODY, break_after=70_000), "broke before the end"),
        (Resource(body=BODY, content_length=len(BODY) + 1), "broke before the end"),
        (Resource(status=500), "HTTP 500"),
        (Resource(status=503), "HTTP 503"),
        (Resource(status=429), "HTTP 429"),
        (Resource(garbage=b""), "broke before the end"),
        (Resource(garbage=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "not proper HTTP"),
        (Resource(garbage=b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), "not proper HTTP"),
    ],
    ids=str,
)
async def test_broken_answer_is_worth_a_retry(
    server: ImageServer, resource: Resource, reason: str
) -> None:
    with pytest.raises(ImageDownloadError, match=reason) as error:
        await fetched(server.put("/x", resource))
    assert error.value.retry


@pytest.mark.parametrize("status", [204, 206, 400, 401, 403, 404, 410])
async def test_refusal_is_not_worth_a_retry(server: ImageServer, status: int) -> None:
    body = b"" if status == 204 else b"a page that nobody should see"
    url = server.put("/x", Resource(status=status, body=body))
    with pytest.raises(ImageRefusedError, match=f"HTTP {status}") as error:
        await fetched(url)
    assert not error.value.retry
    assert "page" not in str(error.value)
    assert error.value.is_denial == (status in (401, 403))


async def test_encoded_body_is_refused(server: ImageServer) -> None:
    resource = Resource(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    with pytest.raises(ImageRefusedError, match="encoded"):
        await fetched(server.put("/x", resource))


@pytest.mark.parametrize("has_length", [True, False])
async def test_too_large_a_file_is_given_up(server: ImageServer, has_length: bool) -> None:
    url = server.put("/x", Resource(body=BODY, has_length=has_length))
    with pytest.raises(ImageRefusedError, match="larger than"):
        await fetched(url, max_bytes=len(BODY) - 1)


async def test_silent_source_is_given_up(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, pause_at=100_000))
    with pytest.raises(ImageDownloadError, match=r"too little for 0\.5 s"):
        await fetched(url, limits=QUICK)


async def test_source_that_drips_is_given_up(server: ImageServer) -> None:
    url = server.put("/x", Resource(body=BODY, drip_s=0.01))
    with pytest.raises(ImageDownloadError, match=r"too little for 0\.5 s"):
        await fetched(url, limits=QUICK)


async def test_source_that_sends_no_answer_is_given_up(server: ImageServer) -> None:
    connected = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(ImageDownloadError, match="too little"):
            await fetched(f"http://127.0.0.1:{port}/x", limits=QUICK)
    assert connected.is_set()


async def test_source_that_is_down_is_worth_a_retry(server: ImageServer) -> None:
    url = server.url("/x")
    await server.stop()
    with pytest.raises(ImageDownloadError, match=r"no connection to 127\.0\.0\.1:\d+: ") as error:
        await fetched(url)
    assert error.value.retry


async def test_redirects_are_followed(server: ImageServer) -> None:
    server.publish("/final", BODY)
    server.put("/2", Resource(redirect_to="final"))
    url = server.put("/1", Resource(redirect_to=server.url("/2")))
    _, sink = await fetched(url)
    assert sink.content == BODY


async def test_redirects_end_after_five(server: ImageServer) -> None:
    url = server.put("/x", Resource(redirect_to="/x"))
    with pytest.raises(ImageRefusedError, match="more than 5 times"):
        await fetched(url)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "target", ["file:///etc/shadow", "ftp://host/x", "gopher://host/", "http://[::1/"]
)
async def test_redirect_to_something_else_is_refused(server: ImageServer, target: str) -> None:
    with pytest.raises(ImageRefusedError, match="redirects to"):
        await fetched(server.put("/x", Resource(redirect_to=target)))


async def test_credentials_go_to_the_host_that_they_are_for(server: ImageServer) -> None:
    server.put("/x", Resource(body=BODY, password="pw"))
    await fetched(f"http://user:p%40w@127.0.0.1:{server.port}/x")
    sent = server.requests[0].headers["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"user:p@w"


async def test_credentials_do_not_follow_a_redirect_elsewhere(server: ImageServer) -> None:
    async with ImageServer.running() as other:
        target = other.publish("/x", BODY)
        server.put("/x", Resource(redirect_to=target.replace("http://", "http://eve:1@")))
        await fetched(f"http://user:pw@127.0.0.1:{server.port}/x")
        assert "authorization" in server.requests[0].headers
        assert "authorization" not in other.requests[0].headers


@pytest.mark.parametrize(
    "resource",
    [
        Resource(status=404),
        Resource(status=500),
        Resource(garbage=b"nonsense\r\n\r\n"),
        Resource(body=BODY, break_after=10),
        Resource(redirect_to="/x"),
        Resource(redirect_to="http://user:hunter2@[::1/"),
    ],
    ids=str,
)
async def test_failure_shows_no_secret(server: ImageServer, resource: Resource) -> None:
    server.put("/x?token=hunter2", resource)
    with pytest.raises((ImageDownloadError, ImageRefusedError)) as error:
        await fetched(f"http://user:hunter2@127.0.0.1:{server.port}/x?token=hunter2")
    assert "hunter2" not in error.value.explain()


async def test_text_is_fetched_up_to_its_cap(server: ImageServer) -> None:
    limits = FetchLimits()
    url = server.publish("/SUMS", b"caf\xc3\xa9 \xff")
    assert await fetch_text(source(url), limits=limits) == "café \ufffd"
    url = server.publish("/SUMS", bytes((1 << 20) + 1))
    with pytest.raises(ImageRefusedError, match="larger"):
        await fetch_text(source(url), limits=limits)
