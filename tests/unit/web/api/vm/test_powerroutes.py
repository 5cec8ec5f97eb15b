"""A VM's buttons, and what Nomad does with its task."""

import asyncio

import pytest
from fakes.fake_qmp import FakeQmp
from fakes.published import VM_ID, make_record, publish
from fakes.web_api import READER, running_api

from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.inventory.stop import Stopped, Stopper

ALLOC = "11111111-2222-3333-4444-555555555555"
TOKEN = "7b1f4f4c-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("button", "command"), [("reset", "system_reset"), ("power-button", "system_powerdown")]
)
async def test_a_button_is_pressed(paths: Paths, button: str, command: str) -> None:
    directory = publish(paths, make_record(paths))
    replies: dict[str, object] = {"system_reset": {}}
    async with (
        FakeQmp(directory.socket("console"), replies=replies) as qemu,
        running_api(paths) as api,
    ):
        answer = await api.post(f"/api/v1/vms/{VM_ID}/{button}")
    assert command in qemu.commands
    assert answer["message"]


@pytest.mark.parametrize("button", ["reset", "power-button"])
@pytest.mark.parametrize("status", ["paused", "shutdown", "guest-panicked", "io-error"])
async def test_a_guest_that_does_not_run_has_no_buttons(
    paths: Paths, button: str, status: str
) -> None:
    directory = publish(paths, make_record(paths))
    async with (
        FakeQmp(directory.socket("console"), status=status) as qemu,
        running_api(paths) as api,
    ):
        answer = await api.post(f"/api/v1/vms/{VM_ID}/{button}", status=409)
    assert answer["error"] == "not-running"
    assert answer["hint"]
    assert {"system_reset", "system_powerdown"}.isdisjoint(qemu.commands)


async def test_stop_and_restart_are_nomads_with_the_users_token(paths: Paths) -> None:
    publish(paths, make_record(paths))
    restart, stop = f"/v1/client/allocation/{ALLOC}/restart", f"/v1/allocation/{ALLOC}/stop"
    async with running_api(paths, has_nomad=True) as api:
        api.guard.token = TOKEN
        api.nomad.answers = {restart: (200, {"Index": 0}), stop: (200, {"EvalID": "e"})}
        await api.post(f"/api/v1/vms/{VM_ID}/restart")
        await api.post(f"/api/v1/vms/{VM_ID}/stop")
        assert api.nomad.asked == [
            ("POST", restart, TOKEN, {"TaskName": "web"}),
            ("POST", stop, TOKEN, {}),
        ]
        api.nomad.answers = {stop: (403, b"Permission denied\x1b[2J")}
        answer = await api.post(f"/api/v1/vms/{VM_ID}/stop", status=403)
    assert "Permission denied?[2J" in answer["message"]


async def test_without_nomad_a_stop_is_the_ladder_once(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(paths, make_record(paths))
    began: list[str] = []
    end = asyncio.Event()

    async def run(self: Stopper, _: object) -> Stopped:
        began.append(self._record.vm_id)
        await end.wait()
        return Stopped(action=None)

    monkeypatch.setattr(Stopper, "run", run)
    async with running_api(paths) as api:
        await api.post(f"/api/v1/vms/{VM_ID}/stop")
        await api.post(f"/api/v1/vms/{VM_ID}/stop")
        end.set()
        assert began == [VM_ID]
        answer = await api.post(f"/api/v1/vms/{VM_ID}/restart", status=409)
    assert answer["error"] == "no-nomad"


@pytest.mark.parametrize(
    ("error", "words"),
    [(HostError("QEMU may not be\x1b killed"), "QEMU may not be? killed"), (KeyError(1), "a bug")],
    ids=["refused", "bug"],
)
async def test_a_stop_that_fails_is_told_until_the_next_one(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    publish(paths, make_record(paths))
    end = asyncio.Event()

    async def fail(_self: Stopper, _: object) -> Stopped:
        raise error

    async def go_on(_self: Stopper, _: object) -> Stopped:
        await end.wait()
        return Stopped(action=None)

    async with running_api(paths) as api:

        async def stop_error() -> str:
            (shown,) = (await api.get("/api/v1/vms"))["vms"]
            return str(shown.get("stop_error", ""))

        monkeypatch.setattr(Stopper, "run", fail)
        await api.post(f"/api/v1/vms/{VM_ID}/stop")
        async with asyncio.timeout(10):
            while not await stop_error():
                await asyncio.sleep(0)
        assert words in await stop_error()
        monkeypatch.setattr(Stopper, "run", go_on)
        await api.post(f"/api/v1/vms/{VM_ID}/stop")
        assert await stop_error() == ""
        end.set()


async def test_who_may_only_see_presses_nothing(paths: Paths) -> None:
    publish(paths, make_record(paths))
    async with running_api(paths) as api:
        api.guard.acl = READER
        for name in ("power-button", "reset", "stop", "restart"):
            await api.post(f"/api/v1/vms/{VM_ID}/{name}", status=403)
