"""Viewers, a VNC server, and what is between them."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes.fake_rfb import FakeRfb
from fakes.fake_screens import FakeFleet
from fakes.fake_viewer import Ended, FakeViewer
from unit.web.fleet.test_model import vm

from qemu_node.web.viewer.contract import VM_ENDED
from qemu_node.web.viewer.screen import relay as module
from qemu_node.web.viewer.screen.relay import NO_RFB, SCREEN_LOST, Relay

VM = vm()
HELLO = b"RFB 003.008\n\x01\x00"
A_DOWN, A_UP = (struct.pack(">BBxxI", 4, is_down, 0x61) for is_down in (1, 0))


class ScreenViewer(FakeViewer):
    """A viewer of a screen, to whom nobody sends text."""

    async def has(self, size: int) -> None:
        async with asyncio.timeout(60):
            while len(self.got) < size:
                await asyncio.sleep(0.005)


@pytest.fixture
def path(short_tmp_path: Path) -> Path:
    return short_tmp_path / "vnc.sock"


@pytest.fixture
def fleet(path: Path) -> FakeFleet:
    fleet = FakeFleet()
    fleet.vms[VM.vm_id] = VM
    fleet.records[VM.vm_id] = SimpleNamespace(sockets=SimpleNamespace(vnc=str(path)))
    return fleet


@pytest.fixture
def relay(fleet: FakeFleet) -> Relay:
    return Relay(fleet)


@pytest.fixture
async def server(path: Path) -> AsyncIterator[FakeRfb]:
    async with FakeRfb(path) as server:
        yield server


async def serve(relay: Relay, viewer: ScreenViewer) -> None:
    with pytest.raises(Ended):
        await relay.serve(VM.vm_id, viewer)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_two_viewers_share_the_screen_and_are_counted(
    relay: Relay, server: FakeRfb, fleet: FakeFleet
) -> None:
    viewers = [ScreenViewer(), ScreenViewer(is_control=False)]
    async with asyncio.TaskGroup() as group:
        for viewer in viewers:
            viewer.sends.put_nowait(HELLO)
            _ = group.create_task(serve(relay, viewer))
        for viewer in viewers:
            await viewer.has(46)
            assert viewer.got.endswith(b"QEMU")
        assert fleet.viewers == {VM.vm_id: 2}
        for viewer in viewers:
            viewer.sends.put_nowait(None)
    assert server.shared == [b"\1", b"\1"]
    assert fleet.viewers == {VM.vm_id: 0}
    await until(lambda: server.open == 0)


async def test_who_only_looks_types_nothing(relay: Relay, server: FakeRfb) -> None:
    looks, controls = ScreenViewer(is_control=False), ScreenViewer()
    async with asyncio.TaskGroup() as group:
        for viewer in (looks, controls):
            viewer.sends.put_nowait(HELLO)
            _ = group.create_task(serve(relay, viewer))
        looks.sends.put_nowait(A_DOWN + A_UP)
        await until(looks.sends.empty)
        controls.sends.put_nowait(A_DOWN + A_UP)
        await until(lambda: len(server.keys) == 2)
        for viewer in (looks, controls):
            viewer.sends.put_nowait(None)
    assert len(server.keys) == 2


async def test_keys_do_not_wait_for_pictures_and_little_is_held(relay: Relay, path: Path) -> None:
    async with FakeRfb(path, flood_bytes=64 << 20) as server, asyncio.TaskGroup() as group:
        viewer = ScreenViewer()
        viewer.sends.put_nowait(HELLO)
        serving = group.create_task(serve(relay, viewer))
        await viewer.has(1 << 20)
        viewer.reads.clear()
        # It is full once the server has waited for a while; what is held then is in the sockets.
        counts: list[int] = []
        while len(counts) < 20 or counts[-1] != counts[-20]:
            counts.append(server.sent_bytes)
            await asyncio.sleep(0.02)
        viewer.sends.put_nowait(A_DOWN)
        await until(lambda: server.keys == [b"\1\0\0\0\x61"])
        assert server.sent_bytes - len(viewer.got) < 4 << 20
        viewer.sends.put_nowait(None)
        await serving


async def test_keys_of_a_viewer_that_goes_are_released(relay: Relay, server: FakeRfb) -> None:
    viewer = ScreenViewer()
    viewer.sends.put_nowait(HELLO + A_DOWN)
    viewer.sends.put_nowait(None)
    await serve(relay, viewer)
    await until(lambda: server.keys == [b"\1\0\0\0\x61", b"\0\0\0\0\x61"])


async def test_the_end_of_the_vm_is_told_with_its_reason(
    relay: Relay, server: FakeRfb, fleet: FakeFleet
) -> None:
    viewer = ScreenViewer()
    viewer.sends.put_nowait(HELLO)
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve(relay, viewer))
        await viewer.has(46)
        server.hang_up()
        await until(lambda: fleet.viewers == {VM.vm_id: 0})
        fleet.end(VM.vm_id, "the guest powered off")
    assert viewer.end == (VM_ENDED, "the guest powered off")
    later = ScreenViewer()
    await serve(relay, later)
    assert later.end == (VM_ENDED, "the guest powered off")


async def test_a_screen_that_goes_while_the_vm_runs_asks_to_come_again(
    relay: Relay, server: FakeRfb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END_KNOWN_S", 0.01)
    viewer = ScreenViewer()
    viewer.sends.put_nowait(HELLO)
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve(relay, viewer))
        await viewer.has(46)
        server.hang_up()
    assert viewer.end is not None
    assert viewer.end[0] == SCREEN_LOST


async def test_no_vnc_server_is_a_lost_screen(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END_KNOWN_S", 0.01)
    viewer = ScreenViewer()
    await serve(relay, viewer)
    assert viewer.end is not None
    assert viewer.end[0] == SCREEN_LOST


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", "text"])
async def test_who_does_not_speak_rfb_is_cut(
    relay: Relay, server: FakeRfb, data: bytes | str
) -> None:
    viewer = ScreenViewer()
    viewer.sends.put_nowait(data)
    await serve(relay, viewer)
    assert viewer.end is not None
    assert viewer.end[0] == NO_RFB
    await until(lambda: server.open == 0)
