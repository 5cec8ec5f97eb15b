"""What a client of the screens' routes gets."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from fakes.fake_screens import FakeFleet
from unit.web.fleet.test_model import vm
from unit.web.frame.test_application import ME, FakeGuard
from unit.web.viewer.screen.test_thumbnails import DumpingQemu

from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.guard import Guard
from qemu_node.web.access.session.websocket import Socket
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.frame.application import add_routes, make_application
from qemu_node.web.viewer.contract import SocketGuard, Viewer, VMs
from qemu_node.web.viewer.screen.pauses import Limits
from qemu_node.web.viewer.screen.relay import Relay
from qemu_node.web.viewer.screen.screenroutes import ScreenRoutes
from qemu_node.web.viewer.screen.thumbnails import Thumbnails

VM = vm()
URL = f"/api/v1/vms/{VM.vm_id}"


def _the_real_ones_fit(
    fleet: Fleet, guard: Guard, socket: Socket
) -> tuple[VMs, SocketGuard, Viewer]:
    """For mypy."""
    return fleet, guard, socket


@pytest.fixture
def qemu() -> DumpingQemu:
    return DumpingQemu()


@pytest.fixture
def guard() -> FakeGuard:
    return FakeGuard()


@pytest.fixture
def fleet(qemu: DumpingQemu) -> FakeFleet:
    fleet = FakeFleet()
    fleet.vms[VM.vm_id] = VM
    fleet.monitors[VM.vm_id] = qemu  # type: ignore[assignment]
    return fleet


@pytest.fixture
async def client(fleet: FakeFleet, guard: FakeGuard) -> AsyncIterator[TestClient[Any, Any]]:
    app = make_application()
    async with Thumbnails(fleet, limits=Limits(slow_s=1e9)) as thumbnails:
        routes = ScreenRoutes(thumbnails, Relay(fleet), guard)  # type: ignore[arg-type]
        add_routes(app, routes.routes(), guard=guard, find_vm=fleet.get)
        async with TestClient(TestServer(app)) as client:
            yield client


async def test_a_thumbnail_is_sent_once_while_the_screen_is_the_same(
    client: TestClient[Any, Any], guard: FakeGuard
) -> None:
    async with client.get(f"{URL}/thumbnail", headers=ME) as reply:
        assert (reply.status, reply.content_type) == (200, "image/jpeg")
        assert (await reply.read()).startswith(b"\xff\xd8")
        etag = reply.headers["ETag"]
        assert reply.headers["Cache-Control"] == "private, max-age=5"
    async with client.get(f"{URL}/thumbnail", headers={**ME, "If-None-Match": etag}) as reply:
        assert reply.status == 304
        assert reply.headers["Cache-Control"].startswith("private, max-age=")
        assert await reply.read() == b""
    async with client.get(f"{URL}/thumbnail", headers={**ME, "If-None-Match": '"old"'}) as reply:
        assert reply.status == 200
    assert {right for right, _, _ in guard.asked} == {Right.VIEW}


async def test_a_screen_that_is_too_large_is_a_problem_with_a_hint(
    client: TestClient[Any, Any], qemu: DumpingQemu
) -> None:
    qemu.picture = b"P6\n8000 4000\n255\n"
    async with client.get(f"{URL}/thumbnail", headers=ME) as reply:
        assert reply.status >= 500
        problem = await reply.json()
    assert "8000x4000" in problem["message"]
    assert problem["hint"]


async def test_a_screenshot_is_a_png_file(
    client: TestClient[Any, Any], qemu: DumpingQemu, fleet: FakeFleet
) -> None:
    qemu.picture = b"\x89PNG\r\n\x1a\n..."
    async with client.get(f"{URL}/screenshot", headers=ME) as reply:
        assert (reply.status, reply.content_type) == (200, "image/png")
        assert await reply.read() == qemu.picture
        assert reply.headers["Cache-Control"] == "no-store"
    fleet.end(VM.vm_id, "the guest powered off")
    async with client.get(f"{URL}/screenshot", headers=ME) as reply:
        assert reply.status == 409


@pytest.mark.parametrize("what", ["thumbnail", "screenshot", "screen"])
async def test_nobody_sees_a_screen_without_a_login(
    client: TestClient[Any, Any], qemu: DumpingQemu, what: str
) -> None:
    async with client.get(f"{URL}/{what}") as reply:
        assert reply.status == 401
    assert qemu.dumps == 0
