"""A socket's limits, and how its handler ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, web
from aiohttp.test_utils import TestClient, TestServer
from fakes.web_sessions import make_grant
from unit.web.fleet.test_model import vm

from qemu_node.errors import QmpError
from qemu_node.web.access.session import websocket as sockets
from qemu_node.web.access.session.websocket import FAILED, IDLE, SLOW, Socket, SocketEndedError

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

    async def connect(self) -> ClientWebSocketResponse:
        assert self.client is not None
        return await self.client.ws_connect("/")


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
    async with asyncio.timeout(30):
        while not server.ended:
            await asyncio.sleep(0.05)
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
