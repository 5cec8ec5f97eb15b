"""A socket's limits, and how its handler ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer
from fakes.web_sessions import make_grant
from unit.web.fleet.test_model import vm

from qemu_node.errors import QmpError
from qemu_node.web.access.session import websocket as sockets
from qemu_node.web.access.session.websocket import (
    FAILED,
    HEAD_BYTES,
    IDLE,
    SLOW,
    Socket,
    SocketEndedError,
)

Serve = Callable[[Socket], Awaitable[object]]


class Server:
    """Serves one socket with what the test gives."""

    def __init__(self) -> None:
        self.serve: Serve = self.echo
        self.idle_s = 1000.0
        self.ended: list[str] = []
        self.client: TestClient[Any, Any] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(max_msg_size=1000, compress=False)
        socket = Socket(ws, request, grant=make_grant(), vm=vm(), idle_s=self.idle_s)
        await ws.prepare(request)
        async with socket.serving():
            try:
                await self.serve(socket)
            finally:
                self.ended.append("ended")
        return ws

    async def echo(self, socket: Socket) -> None:
        while True:
            await socket.send(await socket.receive())

    async def connect(self, **options: Any) -> ClientWebSocketResponse:
        assert self.client is not None
        ws: ClientWebSocketResponse = await self.client.ws_connect("/", **options)
        return ws


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/", server.handle)
    async with TestClient(TestServer(app)) as client:
        server.client = client
        yield server


async def code_of(ws: ClientWebSocketResponse) -> object:
    message = await ws.receive(timeout=30)
    return message.data


async def test_bytes_and_text_go_through_as_they_are(server: Server) -> None:
    ws = await server.connect()
    await ws.send_bytes(b"\xe2")
    assert await ws.receive_bytes() == b"\xe2"
    await ws.send_str("ä")
    assert await ws.receive_str() == "ä"
    await ws.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QmpError("QEMU is gone"), FAILED),
        (KeyError("bug"), FAILED),
        (SocketEndedError(), 1000),
        (ExceptionGroup("", [SocketEndedError(), SocketEndedError()]), 1000),
        (ExceptionGroup("", [SocketEndedError(), QmpError("gone")]), FAILED),
        (TimeoutError(), FAILED),
    ],
    ids=["known", "bug", "ended", "ended-group", "known-group", "timeout"],
)
async def test_an_error_becomes_a_close_code(server: Server, error: Exception, code: int) -> None:
    async def fail(_socket: Socket) -> None:
        raise error

    server.serve = fail
    assert await code_of(await server.connect()) == code


async def test_a_socket_on_which_nothing_happens_ends(server: Server) -> None:
    server.idle_s = 0.05
    assert await code_of(await server.connect()) == IDLE
    assert server.ended == ["ended"]


async def test_a_client_that_does_not_read_is_cut(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "SLOW_READER_S", 0.2)
    seen: list[Socket] = []

    async def flood(socket: Socket) -> None:
        seen.append(socket)
        while True:
            await socket.send(bytes(1 << 20))

    server.serve = flood
    ws = await server.connect()
    ws._response.connection.transport.pause_reading()  # type: ignore[union-attr]
    async with asyncio.timeout(60):
        while not server.ended:
            await asyncio.sleep(0.05)
        transport = seen[0]._request.transport
        while transport is not None and transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
    assert seen[0]._ended is not None
    assert seen[0]._ended[0] == SLOW
    await ws.close()


async def test_an_end_from_elsewhere_cancels_the_handler(server: Server) -> None:
    began = asyncio.Event()
    seen: list[Socket] = []

    async def wait(socket: Socket) -> None:
        seen.append(socket)
        began.set()
        await asyncio.Event().wait()

    server.serve = wait
    ws = await server.connect()
    await began.wait()
    seen[0].end(4401, "logout ✂" * 100)
    seen[0].end(4403, "later")
    assert await code_of(ws) == 4401
    assert server.ended == ["ended"]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
async def test_what_is_written_at_once_is_a_frame_like_any_other(server: Server, size: int) -> None:
    payload = bytes(n % 251 for n in range(size))
    used_again: list[bool] = []

    async def write(socket: Socket) -> None:
        frame = memoryview(bytearray(HEAD_BYTES) + payload)
        used_again.append(socket.write(frame))
        await socket.room()
        await socket.send("behind it")
        assert socket.bytes_out == size + len("behind it")
        assert await socket.receive() == b"answer"

    server.serve = write
    ws = await server.connect()
    assert await ws.receive_bytes() == payload
    assert await ws.receive_str() == "behind it"
    await ws.send_bytes(b"answer")
    assert await code_of(ws) == 1000
    assert used_again


async def test_a_frame_that_a_slow_client_has_not_read_is_not_changed_any_more(
    server: Server,
) -> None:
    sizes: list[int] = []

    async def write(socket: Socket) -> None:
        while socket.has_room:
            frame = memoryview(bytearray(HEAD_BYTES + (1 << 20)))
            frame[HEAD_BYTES:] = bytes([len(sizes) % 256]) * (1 << 20)
            sizes.append(len(sizes) % 256)
            if socket.write(frame):
                # It may be used again: whatever is put there is not sent.
                frame[:] = bytes(len(frame))
        await socket.room()

    server.serve = write
    ws = await server.connect(max_msg_size=0)
    while (message := await ws.receive(timeout=30)).type is WSMsgType.BINARY:
        assert set(message.data) == {sizes.pop(0)}
    assert not sizes


async def test_who_does_not_read_what_was_written_at_once_is_cut(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "SLOW_READER_S", 0.2)
    seen: list[Socket] = []

    async def flood(socket: Socket) -> None:
        seen.append(socket)
        while True:
            _ = socket.write(memoryview(bytearray(1 << 20)))
            await socket.room()

    server.serve = flood
    ws = await server.connect()
    async with asyncio.timeout(30):
        while not server.ended:
            await asyncio.sleep(0.05)
    assert seen[0]._ended is not None
    assert seen[0]._ended[0] == SLOW
    await ws.close()


async def test_nothing_is_written_at_once_to_a_client_that_has_gone(server: Server) -> None:
    raised: list[Exception] = []

    async def write(socket: Socket) -> None:
        with pytest.raises(SocketEndedError):
            await socket.receive()
        with pytest.raises(SocketEndedError) as found:
            _ = socket.write(memoryview(bytearray(HEAD_BYTES + 1)))
        raised.append(found.value)

    server.serve = write
    ws = await server.connect()
    await ws.close()
    async with asyncio.timeout(30):
        while not raised:
            await asyncio.sleep(0.01)


async def test_an_end_while_the_client_has_time_for_its_goodbye_is_no_error(
    server: Server,
) -> None:
    seen: list[Socket] = []

    async def leave(socket: Socket) -> None:
        seen.append(socket)

    server.serve = leave
    ws = await server.connect()
    while not server.ended:
        await asyncio.sleep(0.001)
    seen[0].end(4401, "logout")
    assert await code_of(ws) == 1000


async def test_a_client_that_does_not_read_keeps_no_connection_open(server: Server) -> None:
    transports: list[asyncio.Transport] = []

    async def fill(socket: Socket) -> None:
        transport = socket._request.transport
        assert transport is not None
        transports.append(transport)
        while not transport.get_write_buffer_size():
            transport.write(bytes(1 << 20))
        # As aiohttp does when no pong has come.
        transport.close()

    server.serve = fill
    ws = await server.connect()
    ws._response.connection.transport.pause_reading()  # type: ignore[union-attr]
    async with asyncio.timeout(60):
        while not transports or transports[0].get_write_buffer_size():
            await asyncio.sleep(0.01)
    await ws.close()
