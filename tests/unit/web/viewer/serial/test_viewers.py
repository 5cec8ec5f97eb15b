"""Browsers on a serial port, and a fake QEMU."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.fake_screens import FakeFleet
from fakes.fake_serial import VM, FakePort, make_fleet, no_log, until
from fakes.fake_viewer import Ended, FakeViewer

from qemu_node.errors import HostError
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.access.session.websocket import SLOW
from qemu_node.web.fleet.model import VMView
from qemu_node.web.viewer.contract import VM_ENDED
from qemu_node.web.viewer.serial import hub as hub_module
from qemu_node.web.viewer.serial import serialtap as tap_module
from qemu_node.web.viewer.serial.hub import Hubs
from qemu_node.web.viewer.serial.outbox import OUTBOX_BYTES
from qemu_node.web.viewer.serial.viewers import BAD_FRAME, Viewers


@pytest.fixture
def fleet(short_tmp_path: Path) -> FakeFleet:
    return make_fleet(short_tmp_path / "s")


@pytest.fixture
async def port(short_tmp_path: Path) -> AsyncIterator[FakePort]:
    async with FakePort(short_tmp_path / "s") as port:
        yield port


@pytest.fixture
async def hubs(fleet: FakeFleet) -> AsyncIterator[Hubs]:
    async with Hubs(fleet, linger_s=0.0) as hubs:
        yield hubs


@pytest.fixture
def viewers(fleet: FakeFleet, hubs: Hubs) -> Viewers:
    return Viewers(fleet, hubs, no_log)


async def serve(viewers: Viewers, viewer: FakeViewer) -> None:
    with pytest.raises(Ended):
        await viewers.serve(VM, viewer)


def last(viewer: FakeViewer, kind: str) -> dict[str, Any]:
    """Return the newest notice of a kind."""
    found = [json.loads(notice) for notice in viewer.notices]
    return next((notice for notice in reversed(found) if notice["type"] == kind), {})


def is_open(viewer: FakeViewer) -> bool:
    return last(viewer, "port") == {"type": "port", "state": "open"}


async def test_all_see_the_same_and_all_can_type(
    viewers: Viewers, port: FakePort, fleet: FakeFleet
) -> None:
    both = [FakeViewer(), FakeViewer()]
    async with asyncio.TaskGroup() as group:
        for viewer in both:
            _ = group.create_task(serve(viewers, viewer))
            await until(lambda v=viewer: is_open(v))
        await port.print(b"login: ")
        both[0].sends.put_nowait(b"ro")
        await until(lambda: port.typed == b"ro")
        both[1].sends.put_nowait(b"ot\r")
        await until(lambda: port.typed == b"root\r")
        await until(lambda: both[0].got == both[1].got == b"login: ")
        assert fleet.viewers == {VM.vm_id: 2}
        assert port.connections == 1
        await until(lambda: last(both[0], "viewers").get("typing") == 2)
        assert last(both[0], "viewers") == {
            "type": "viewers",
            "you": 1,
            "viewers": [
                {"id": 1, "name": "me", "may_type": True},
                {"id": 2, "name": "me", "may_type": True},
            ],
            "typing": 2,
        }
        both[0].sends.put_nowait(None)
        await until(lambda: len(last(both[1], "viewers")["viewers"]) == 1)
        both[1].sends.put_nowait(None)
    assert fleet.viewers == {VM.vm_id: 0}


@pytest.mark.parametrize("pieces", [[b"\xe2", b"\x94\x80"], [b"\xe4\xf6\xfc\xff\x00\x80"]])
async def test_bytes_stay_bytes_both_ways(
    viewers: Viewers, port: FakePort, pieces: list[bytes]
) -> None:
    viewer = FakeViewer()
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve(viewers, viewer))
        await until(lambda: is_open(viewer))
        for n in range(len(pieces)):
            await port.print(pieces[n])
            viewer.sends.put_nowait(pieces[n])
            await until(lambda n=n: viewer.got == port.typed == b"".join(pieces[: n + 1]))
        viewer.sends.put_nowait(None)


async def test_who_only_looks_types_nothing(viewers: Viewers, port: FakePort) -> None:
    looks, types = FakeViewer(is_control=False), FakeViewer()
    async with asyncio.TaskGroup() as group:
        for viewer in (looks, types):
            _ = group.create_task(serve(viewers, viewer))
            await until(lambda v=viewer: is_open(v))
        looks.sends.put_nowait(b"reboot\r")
        looks.sends.put_nowait('{"type": "input", "on": true}')
        looks.sends.put_nowait(b"reboot\r")
        await until(looks.sends.empty)
        types.sends.put_nowait(b"x")
        await until(lambda: port.typed)
        await port.print(b"x")
        await until(lambda: looks.got == b"x")
        assert [v["may_type"] for v in last(types, "viewers")["viewers"]] == [False, True]
        for viewer in (looks, types):
            viewer.sends.put_nowait(None)
    assert port.typed == b"x"


async def test_input_is_handed_over_openly(viewers: Viewers, port: FakePort) -> None:
    both = [FakeViewer(), FakeViewer()]
    async with asyncio.TaskGroup() as group:
        for viewer in both:
            _ = group.create_task(serve(viewers, viewer))
            await until(lambda v=viewer: is_open(v))
        both[0].sends.put_nowait('{"type": "input", "on": false}')
        both[0].sends.put_nowait(b"not me")
        await until(lambda: not last(both[1], "viewers")["viewers"][0]["may_type"])
        both[1].sends.put_nowait(b"me")
        await until(lambda: port.typed == b"me")
        both[0].sends.put_nowait('{"type": "input", "on": true}')
        both[0].sends.put_nowait(b"!")
        await until(lambda: port.typed == b"me!")
        for viewer in both:
            viewer.sends.put_nowait(None)


async def test_a_slow_viewer_is_cut_and_the_others_go_on(
    viewers: Viewers, port: FakePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap_module, "PAUSE_S", 0.0)
    slow, quick = FakeViewer(), FakeViewer()
    async with asyncio.TaskGroup() as group:
        for viewer in (slow, quick):
            _ = group.create_task(serve(viewers, viewer))
            await until(lambda v=viewer: is_open(v))
        slow.reads.clear()
        printed = bytes(range(256)) * 256
        for _ in range(3 * OUTBOX_BYTES // len(printed)):
            await port.print(printed)
        await until(lambda: len(quick.got) == 3 * OUTBOX_BYTES)
        await until(lambda: slow.end is not None)
        quick.sends.put_nowait(b"still here")
        await until(lambda: port.typed == b"still here")
        quick.sends.put_nowait(None)
    assert quick.got == printed * (3 * OUTBOX_BYTES // len(printed))
    assert slow.end is not None
    assert slow.end[0] == SLOW


async def test_whoever_comes_later_first_gets_what_was_printed(
    viewers: Viewers, port: FakePort
) -> None:
    first, later = FakeViewer(), FakeViewer(is_control=False)
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve(viewers, first))
        await port.print(b"\x1b[?2004h$ ")
        await until(lambda: first.got)
        _ = group.create_task(serve(viewers, later))
        await until(lambda: '{"type":"live"}' in later.notices)
        assert later.got == b"\x1b[?2004h$ "
        await port.print(b"ls")
        await until(lambda: later.got == first.got == b"\x1b[?2004h$ ls")
        for viewer in (first, later):
            viewer.sends.put_nowait(None)


async def test_it_begins_with_the_end_of_the_log(
    fleet: FakeFleet, hubs: Hubs, port: FakePort
) -> None:
    asked: list[str] = []

    async def read_log(vm: VMView, grant: Grant) -> bytes:
        asked.append(f"{vm.vm_id} {grant.user}")
        await port.print(b"now\r\n")
        return b"before\n"

    viewers, both = Viewers(fleet, hubs, read_log), [FakeViewer(), FakeViewer()]
    async with asyncio.TaskGroup() as group:
        for viewer in both:
            _ = group.create_task(serve(viewers, viewer))
        await until(lambda: both[0].got == both[1].got == b"before\r\nnow\r\n")
        for viewer in both:
            viewer.sends.put_nowait(None)
    assert asked == [f"{VM.vm_id} me"]


async def test_a_log_that_cannot_be_read_keeps_nobody_from_the_port(
    fleet: FakeFleet, hubs: Hubs, port: FakePort
) -> None:
    async def read_log(_vm: VMView, _grant: Grant) -> bytes:
        raise HostError("no")

    viewer = FakeViewer()
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve(Viewers(fleet, hubs, read_log), viewer))
        await port.print(b"now")
        await until(lambda: viewer.got == b"now")
        viewer.sends.put_nowait(None)


async def test_the_end_of_the_vm_comes_after_its_last_words(
    viewers: Viewers, port: FakePort, fleet: FakeFleet
) -> None:
    viewer = FakeViewer()
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve(viewers, viewer))
        await port.print(b"Power down\r\n")
        port.hang_up()
        fleet.end(VM.vm_id, "the guest powered off")
    assert viewer.got == b"Power down\r\n"
    assert viewer.end == (VM_ENDED, "the guest powered off")
    later = FakeViewer()
    await serve(viewers, later)
    assert later.end == (VM_ENDED, "the guest powered off")


async def test_a_port_that_goes_while_the_vm_runs_is_opened_again(
    viewers: Viewers, short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "END_KNOWN_S", 0.01)
    monkeypatch.setattr(hub_module, "_RETRY_S", 0.01)
    viewer = FakeViewer()
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve(viewers, viewer))
        await until(lambda: last(viewer, "port").get("state") == "lost")
        async with FakePort(short_tmp_path / "s") as port:
            await port.print(b"here again")
            await until(lambda: viewer.got == b"here again")
            assert is_open(viewer)
            viewer.sends.put_nowait(None)


async def test_a_port_that_somebody_has_is_told_and_taken_over_when_it_is_free(
    viewers: Viewers, port: FakePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "TAKEN_POLL_S", 0.01)
    taken = True

    async def is_taken(_fleet: object, _vm_id: str) -> bool:
        return taken

    monkeypatch.setattr(hub_module, "is_taken", is_taken)
    viewer = FakeViewer()
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve(viewers, viewer))
        await until(lambda: last(viewer, "port").get("state") == "taken")
        viewer.sends.put_nowait(b"lost")
        await until(lambda: last(viewer, "dropped") == {"type": "dropped", "bytes": 4})
        assert port.connections == 0
        taken = False
        await port.print(b"mine")
        await until(lambda: viewer.got == b"mine")
        viewer.sends.put_nowait(None)
    assert not port.typed


async def test_a_guest_that_takes_no_input_is_told_of_and_holds_little(
    viewers: Viewers, short_tmp_path: Path
) -> None:
    async with FakePort(short_tmp_path / "s", takes_input=False) as port:
        viewer = FakeViewer()
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(serve(viewers, viewer))
            await until(lambda: is_open(viewer))
            for _ in range(100):
                viewer.sends.put_nowait(bytes(1 << 15))
            await until(lambda: last(viewer, "dropped").get("bytes") == 1 << 15)
            await port.print(b"output goes on")
            await until(lambda: viewer.got == b"output goes on")
            viewer.sends.put_nowait(None)


@pytest.mark.parametrize(
    "frame", ["", "{", '{"type": "shell"}', '{"type": "input", "on": 1}', "[]"]
)
async def test_text_that_means_nothing_ends_the_socket(
    viewers: Viewers, port: FakePort, frame: str
) -> None:
    viewer = FakeViewer()
    viewer.sends.put_nowait(frame)
    await serve(viewers, viewer)
    assert viewer.end is not None
    assert viewer.end[0] == BAD_FRAME


async def test_the_port_is_given_back_when_nobody_is_there(
    viewers: Viewers, port: FakePort, hubs: Hubs
) -> None:
    viewer = FakeViewer()
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve(viewers, viewer))
        await port.print(b"x")
        await until(lambda: viewer.got)
        assert len(hubs) == 1
        viewer.sends.put_nowait(None)
    await until(lambda: len(hubs) == 0)
    await until(lambda: not port._is_open.is_set())


async def test_a_page_that_is_loaded_again_finds_its_terminal(
    fleet: FakeFleet, port: FakePort
) -> None:
    async with Hubs(fleet, linger_s=3600.0) as hubs:
        viewers = Viewers(fleet, hubs, no_log)
        before, after = FakeViewer(), FakeViewer()
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(serve(viewers, before))
            await port.print(b"\x1b[?2004h$ ")
            await until(lambda: before.got)
            before.sends.put_nowait(None)
        await port.print(b"meanwhile")
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(serve(viewers, after))
            await until(lambda: after.got == b"\x1b[?2004h$ meanwhile")
            after.sends.put_nowait(None)
        assert port.connections == 1
