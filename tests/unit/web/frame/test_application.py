"""What the frame does with requests before and after a route's handler."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fakes.web_sessions import make_session
from unit.web.fleet.test_model import vm

from qemu_node.errors import HostError
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.fleet.model import VMView
from qemu_node.web.frame import application
from qemu_node.web.frame.application import BODY_MAX_BYTES, add_routes, make_application
from qemu_node.web.frame.route import VM_PATH, Call, Route
from qemu_node.web.http.problems import not_logged_in

VM = vm()


class Text(msgspec.Struct, frozen=True):
    text: str


class FakeGuard:
    """Lets in whoever has the header X-Me; notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Right, VMView | None, bool]] = []

    async def grant(
        self, request: web.Request, right: Right, vm: VMView | None, *, is_change: bool
    ) -> Grant:
        self.asked.append((right, vm, is_change))
        if "X-Me" not in request.headers:
            raise not_logged_in()
        return Grant(user="me", right=right, session=make_session())

    @contextlib.asynccontextmanager
    async def stream(self, _grant: Grant) -> AsyncIterator[None]:
        yield


async def echo(call: Call) -> Text:
    return Text(f"{call.the_vm.job} {call.body.text}")


async def fail(call: Call) -> None:
    raise HostError("the disk is full", hint="remove images") if call.grant else KeyError("bug")


ROUTES = (
    Route(
        method="POST",
        path=f"{VM_PATH}/echo",
        right=Right.CONTROL,
        handler=echo,
        summary="Echo.",
        body=Text,
        answer=Text,
    ),
    Route(method="GET", path="/fail", right=Right.NODE, handler=fail, summary="Fail."),
    Route(method="GET", path="/bug", right=None, handler=fail, summary="Fail."),
)


@pytest.fixture
def guard() -> FakeGuard:
    return FakeGuard()


@pytest.fixture
async def client(guard: FakeGuard) -> AsyncIterator[TestClient[Any, Any]]:
    app = make_application()
    add_routes(app, ROUTES, guard=guard, find_vm={VM.vm_id: VM}.get)
    async with TestClient(TestServer(app)) as client:
        yield client


ME = {"X-Me": "1"}


async def test_a_handler_gets_the_vm_and_the_body(
    client: TestClient[Any, Any], guard: FakeGuard
) -> None:
    async with client.post(f"/api/v1/vms/{VM.vm_id}/echo", json={"text": "a"}, headers=ME) as reply:
        assert await reply.json() == {"text": "web a"}
        assert reply.headers["Cache-Control"] == "no-store"
    assert guard.asked == [(Right.CONTROL, VM, True)]


async def test_nobody_learns_without_a_login_which_vms_there_are(
    client: TestClient[Any, Any],
) -> None:
    for vm_id in (VM.vm_id, "other-0123456789ab"):
        async with client.post(f"/api/v1/vms/{vm_id}/echo", data=b"no JSON") as reply:
            assert reply.status == 401


async def test_a_vm_that_is_not_there_is_a_problem(client: TestClient[Any, Any]) -> None:
    async with client.post("/api/v1/vms/%1b%0a/echo", json={"text": ""}, headers=ME) as reply:
        assert reply.status == 404
        assert "\x1b" not in (await reply.json())["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"text": 1}', 400),
        (b"[" * 50_000, 400),
        (b'{"text": "\\ud800"}', 400),
        (b'"' + b"x" * BODY_MAX_BYTES + b'"', 413),
    ],
    ids=["no-json", "another-type", "deep", "surrogate", "large"],
)
async def test_a_bad_body_is_a_problem(
    client: TestClient[Any, Any], body: bytes, status: int
) -> None:
    headers = {**ME, "Content-Type": "application/json"}
    url = f"/api/v1/vms/{VM.vm_id}/echo"
    async with client.post(url, headers=headers, data=body) as reply:
        assert reply.status == status
        assert (await reply.json())["error"]


async def test_a_body_of_a_form_is_not_taken_for_json(client: TestClient[Any, Any]) -> None:
    url = f"/api/v1/vms/{VM.vm_id}/echo"
    async with client.post(url, headers=ME, data={"text": "a"}) as reply:
        assert reply.status == 415


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [("/fail", 503, "node"), ("/bug", 500, "bug"), ("/nowhere", 404, "not-found")],
)
async def test_every_error_is_json(
    client: TestClient[Any, Any], path: str, status: int, error: str
) -> None:
    async with client.get(path, headers=ME) as reply:
        assert reply.status == status
        assert (await reply.json())["error"] == error


def test_a_right_to_a_vm_needs_a_path_that_names_one(guard: FakeGuard) -> None:
    route = Route(method="POST", path="/all", right=Right.POWER, handler=fail, summary="Fail.")
    with pytest.raises(ValueError, match="/all"):
        add_routes(make_application(), [route], guard=guard, find_vm={VM.vm_id: VM}.get)


async def test_a_body_that_comes_too_slowly_is_given_up(
    client: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "BODY_MAX_S", 0.05)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        f"POST /api/v1/vms/{VM.vm_id}/echo HTTP/1.1\r\nHost: a\r\nX-Me: 1\r\n"
        'Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{"text":'.encode()
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_who_does_not_take_an_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "SEND_MAX_S", 0.3)

    async def much(call: Call) -> web.Response:
        del call
        return web.Response(body=bytes(64 << 20))

    app = make_application()
    route = Route(method="GET", path="/much", right=None, handler=much, summary="Much.")
    add_routes(app, [route], guard=FakeGuard(), find_vm=lambda _: None)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port, limit=1 << 10)
        writer.write(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        assert server.runner is not None
        manager = server.runner.server
        assert manager is not None
        async with asyncio.timeout(60):
            while not manager.connections:
                await asyncio.sleep(0.01)
            # Not one byte is read here but what fills the buffers.
            while manager.connections:
                await asyncio.sleep(0.01)
        writer.close()
        del reader


async def test_a_client_that_goes_in_the_middle_of_its_request_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_application()
    asked = asyncio.Event()

    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:
        asked.set()
        try:
            response: web.StreamResponse = await handler(request)
        finally:
            answered.set()
        return response

    answered = asyncio.Event()
    app.middlewares.insert(0, note)
    add_routes(app, ROUTES, guard=FakeGuard(), find_vm={VM.vm_id: VM}.get)
    # As the daemon's: it cancels no handler whose client has gone.
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, writer = await asyncio.open_connection(*runner.addresses[0])
    path = ROUTES[0].path.replace("{vm_id}", VM.vm_id)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nX-Me: 1\r\nContent-Type: application/json\r\n"
    writer.write(f'{head}Content-Length: 100\r\n\r\n{{"text": '.encode())
    await asked.wait()
    writer.transport.abort()
    await answered.wait()
    await runner.cleanup()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
