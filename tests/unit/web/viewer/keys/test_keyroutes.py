"""What a client of the keys' routes gets."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from fakes.fake_screens import FakeFleet
from unit.web.fleet.test_model import vm
from unit.web.frame.test_application import ME, FakeGuard
from unit.web.viewer.keys.test_paste import TypedQemu

from qemu_node.web.access.acl.rights import Right
from qemu_node.web.frame.application import add_routes, make_application
from qemu_node.web.viewer.keys.keyroutes import KeysRoutes
from qemu_node.web.viewer.keys.paste import Pastes

VM = vm()
URL = f"/api/v1/vms/{VM.vm_id}"


@pytest.fixture
def qemu() -> TypedQemu:
    return TypedQemu()


@pytest.fixture
def guard() -> FakeGuard:
    return FakeGuard()


@pytest.fixture
async def client(qemu: TypedQemu, guard: FakeGuard) -> AsyncIterator[TestClient[Any, Any]]:
    fleet = FakeFleet()
    fleet.vms[VM.vm_id] = VM
    fleet.monitors[VM.vm_id] = qemu  # type: ignore[assignment]
    app = make_application()
    async with Pastes(fleet) as pastes:
        add_routes(app, KeysRoutes(fleet, pastes, guard).routes(), guard=guard, find_vm=fleet.get)
        async with TestClient(TestServer(app)) as client:
            yield client


async def test_a_paste_can_be_followed_and_aborted(
    client: TestClient[Any, Any], guard: FakeGuard
) -> None:
    body = {"text": "a" * 5000, "layout": "de", "per_second": 200}
    async with client.post(f"{URL}/paste", json=body, headers=ME) as reply:
        begun = await reply.json()
        assert (begun["state"], begun["characters"]) == ("typing", 5000)
    async with client.post(f"{URL}/keys", json={"keys": ["win"]}, headers=ME) as reply:
        assert (reply.status, (await reply.json())["error"]) == (409, "paste-runs")
    async with client.get(f"{URL}/paste/{begun['id']}", headers=ME) as reply:
        assert (await reply.json())["id"] == begun["id"]
    async with client.delete(f"{URL}/paste/{begun['id']}", headers=ME) as reply:
        assert (await reply.json())["state"] == "aborted"
    assert {right for right, _, _ in guard.asked} == {Right.CONTROL}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"text": "\u6f22"}, 422, "no key for"),
        ({"text": ""}, 400, "length"),
        ({"text": "a" * 9000}, 422, "8 KiB"),
        ({"text": "a", "layout": "../us"}, 400, "no keyboard layout"),
        ({"text": "a", "per_second": 1000}, 400, "200"),
    ],
)
async def test_what_cannot_be_typed_is_refused_before_the_first_key(
    client: TestClient[Any, Any],
    qemu: TypedQemu,
    body: dict[str, object],
    status: int,
    says: str,
) -> None:
    async with client.post(f"{URL}/paste", json=body, headers=ME) as reply:
        assert reply.status == status
        assert says in (await reply.json())["message"]
    assert qemu.calls == []


async def test_combinations_are_pressed(client: TestClient[Any, Any], qemu: TypedQemu) -> None:
    keys = {"keys": ["ctrl", "alt", "f2"]}
    async with client.post(f"{URL}/keys", json=keys, headers=ME) as reply:
        assert reply.status == 204
    assert qemu.calls[0] == [("ctrl", True), ("alt", True), ("f2", True)]
    async with client.post(f"{URL}/keys", json={"keys": ["x"] * 6}, headers=ME) as reply:
        assert reply.status == 400


async def test_layouts_and_keys_are_listed(client: TestClient[Any, Any]) -> None:
    async with client.get("/api/v1/keyboard", headers=ME) as reply:
        keyboard = await reply.json()
    assert {"name": "fi", "title": "Finnish"} in keyboard["layouts"]
    assert {"us", "gb", "de", "fr", "fi", "se"} <= {each["name"] for each in keyboard["layouts"]}
    assert "delete" in keyboard["keys"]
