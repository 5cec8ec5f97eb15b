"""Screens of real QEMUs: small pictures, and viewers through the relay.

The guest is a boot sector that shows what is typed.
"""

import asyncio
import io
import os
import signal
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes.fake_screens import FakeFleet
from fakes.fake_viewer import Ended
from guests import bootsector
from PIL import Image
from unit.web.fleet.test_model import vm
from unit.web.viewer.screen.test_relay import ScreenViewer

from qemu_node.errors import NodeError, QmpError
from qemu_node.host.process.command import Child, spawn
from qemu_node.host.process.pidfd import send_signal
from qemu_node.host.sockets import listen_unix
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.web.viewer.contract import VM_ENDED
from qemu_node.web.viewer.keys.typist import press
from qemu_node.web.viewer.screen.jpeg import Thumbnail
from qemu_node.web.viewer.screen.pauses import FRESH_S, Limits
from qemu_node.web.viewer.screen.ppm import PictureError
from qemu_node.web.viewer.screen.relay import Relay
from qemu_node.web.viewer.screen.thumbnails import Thumbnails

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(180)]

VM = vm()
WAIT_S = 60.0
HELLO = b"RFB 003.008\n\x01\x00"
RAW = struct.pack(">BxHi", 2, 1, 0)
SERVER_INIT_BYTES = 12 + 2 + 4 + 24


class Guest:
    """A QEMU, the fleet that it is the only VM of, and its thumbnails' clock."""

    def __init__(self, child: Child, qmp: QmpConnection, vnc: Path) -> None:
        self.child = child
        self.qmp = qmp
        self.fleet = FakeFleet()
        self.fleet.vms[VM.vm_id] = VM
        self.fleet.monitors[VM.vm_id] = qmp
        self.fleet.records[VM.vm_id] = SimpleNamespace(sockets=SimpleNamespace(vnc=str(vnc)))
        self.later_s = 0.0

    def thumbnails(self, monkeypatch: pytest.MonkeyPatch) -> Thumbnails:
        """Return pictures whose time passes by `later_s`; no picture is slow."""
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(Thumbnails, "_now_s", staticmethod(lambda: loop.time() + self.later_s))
        return Thumbnails(self.fleet, limits=Limits(slow_s=1e9))

    async def picture(self, thumbnails: Thumbnails) -> Thumbnail:
        """Return a picture of now."""
        self.later_s += FRESH_S
        return await thumbnails.get(VM)

    async def settled(self, thumbnails: Thumbnails) -> Thumbnail:
        """Return the picture once the screen no longer changes."""
        async with asyncio.timeout(WAIT_S):
            same, shown = 0, await self.picture(thumbnails)
            while same < 5:
                await asyncio.sleep(0.2)
                now = await self.picture(thumbnails)
                same = same + 1 if now is shown and not now.is_blank else 0
                shown = now
        return shown


@asynccontextmanager
async def running(directory: Path, disk: bytes) -> AsyncIterator[Guest]:
    (directory / "disk").write_bytes(disk)
    stderr_fd = os.open(directory / "stderr", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    listener = listen_unix(directory / "qmp")
    # fmt: off
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", "q35,accel=tcg", "-m", "32", "-vga", "std",
        "-drive", f"if=ide,format=raw,file={directory / 'disk'}",
        "-vnc", f"unix:{directory / 'vnc'},share=force-shared",
        "-chardev", f"socket,id=qmp,fd={listener},server=on,wait=off",
        "-mon", "chardev=qmp,mode=control",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    # fmt: on
    try:
        child = spawn(argv, stderr_fd=stderr_fd, pass_fds=[listener])
    finally:
        os.close(listener)
        os.close(stderr_fd)
    try:
        async with await QmpConnection.connect(directory / "qmp", timeout_s=WAIT_S) as qmp:
            yield Guest(child, qmp, directory / "vnc")
    finally:
        send_signal(child.process, signal.SIGCONT)
        send_signal(child.process, signal.SIGKILL)
        async with asyncio.timeout(WAIT_S):
            while child.exit_status() is None:
                await asyncio.sleep(0.02)


@pytest.fixture
async def guest(short_tmp_path: Path) -> AsyncIterator[Guest]:
    async with running(short_tmp_path, bootsector.echo()) as guest:
        yield guest


async def test_a_thumbnail_changes_with_the_screen_and_only_then(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guest.thumbnails(monkeypatch) as thumbnails:
        before = await guest.settled(thumbnails)
        with Image.open(io.BytesIO(before.jpeg)) as image:
            assert 200 < max(image.size) < 500
        await press(guest.fleet, VM.vm_id, ["a"])
        after = await guest.settled(thumbnails)
        assert after.version != before.version
        assert guest.fleet.pictures[-1] == (VM.vm_id, after.version)
        assert await guest.qmp.execute("query-fdsets") == []


async def test_fifty_requests_to_a_stopped_qemu_are_one_dump_and_all_are_answered(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guest.thumbnails(monkeypatch) as thumbnails:
        send_signal(guest.child.process, signal.SIGSTOP)
        asked = [thumbnails.get(VM) for _ in range(50)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, NodeError) for answer in found)
        with pytest.raises(QmpError):
            await thumbnails.get(VM)
        assert guest.fleet.lent == 1
        send_signal(guest.child.process, signal.SIGCONT)
        guest.later_s += 60
        assert (await guest.settled(thumbnails)).width
        assert await guest.qmp.execute("query-fdsets") == []


async def test_a_screen_of_8000_by_4000_is_refused(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running(short_tmp_path, bootsector.huge_screen(8000, 4000)) as guest,
        guest.thumbnails(monkeypatch) as thumbnails,
        asyncio.timeout(WAIT_S),
    ):
        refused: NodeError | None = None
        while refused is None:
            try:
                await guest.picture(thumbnails)
            except PictureError as exc:
                refused = exc
            await asyncio.sleep(0.1)
            # The pictures that were large have made a pause.
            guest.later_s += 1800
        assert "8000x4000" in str(refused)
        assert (await commands.query_status(guest.qmp)).running


class Screen:
    """A viewer that speaks RFB with QEMU through the relay."""

    def __init__(self, viewer: ScreenViewer) -> None:
        self.viewer = viewer
        self._read = 0
        self.size = (0, 0)

    async def open(self) -> None:
        self.viewer.sends.put_nowait(HELLO)
        await self.viewer.has(SERVER_INIT_BYTES)
        init = bytes(self.viewer.got[18:SERVER_INIT_BYTES])
        width, height = struct.unpack(">HH", init[:4])
        self.size = width, height
        name_bytes = struct.unpack(">I", init[20:24])[0]
        self._read = SERVER_INIT_BYTES + name_bytes
        self.viewer.sends.put_nowait(RAW)

    async def update(self, *, incremental: bool) -> bytes:
        """Return the pixels of the next update: of the whole screen, or of what changes."""
        width, height = self.size
        self.viewer.sends.put_nowait(struct.pack(">BBHHHH", 3, incremental, 0, 0, width, height))
        await self.viewer.has(self._read + 4)
        count = struct.unpack(">H", self.viewer.got[self._read + 2 : self._read + 4])[0]
        self._read += 4
        pixels = b""
        for _ in range(count):
            await self.viewer.has(self._read + 12)
            rectangle = struct.unpack(">HHHHi", self.viewer.got[self._read : self._read + 12])
            assert rectangle[4] == 0
            self._read += 12
            size = 4 * rectangle[2] * rectangle[3]
            await self.viewer.has(self._read + size)
            pixels += self.viewer.got[self._read : self._read + size]
            self._read += size
        return pixels

    def type(self, keysym: int) -> None:
        for is_down in (1, 0):
            self.viewer.sends.put_nowait(struct.pack(">BBxxI", 4, is_down, keysym))


@asynccontextmanager
async def viewers(relay: Relay, *are_control: bool) -> AsyncIterator[list[Screen]]:
    """Open a viewer for each, and close them at the end."""

    async def serve(viewer: ScreenViewer) -> None:
        with pytest.raises(Ended):
            await relay.serve(VM.vm_id, viewer)

    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        screens = [Screen(ScreenViewer(is_control=is_control)) for is_control in are_control]
        for screen in screens:
            _ = group.create_task(serve(screen.viewer))
            stack.callback(screen.viewer.sends.put_nowait, None)
        for screen in screens:
            async with asyncio.timeout(WAIT_S):
                await screen.open()
        yield screens


async def test_two_viewers_see_one_type_and_a_reset_keeps_both(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guest.thumbnails(monkeypatch) as thumbnails:
        await guest.settled(thumbnails)
    relay = Relay(guest.fleet)
    async with viewers(relay, True, False) as (types, looks):
        assert guest.fleet.viewers == {VM.vm_id: 2}
        assert await types.update(incremental=False) == await looks.update(incremental=False)
        types.type(0x61)
        assert await types.update(incremental=True)
        assert await looks.update(incremental=True)
        await commands.system_reset(guest.qmp)
        assert await types.update(incremental=True)
        assert await looks.update(incremental=True)
        assert types.viewer.end is looks.viewer.end is None
    assert guest.fleet.viewers == {VM.vm_id: 0}


async def test_who_only_looks_cannot_type(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    async with guest.thumbnails(monkeypatch) as thumbnails:
        before = await guest.settled(thumbnails)
        async with viewers(Relay(guest.fleet), False, True) as (looks, types):
            looks.type(0x61)
            await looks.update(incremental=False)
            assert (await guest.settled(thumbnails)).version == before.version
            types.type(0x61)
            async with asyncio.timeout(WAIT_S):
                while (await guest.picture(thumbnails)).version == before.version:
                    await asyncio.sleep(0.1)


async def test_the_end_of_the_vm_tells_its_viewers_why(guest: Guest) -> None:
    relay = Relay(guest.fleet)
    viewer = ScreenViewer()
    viewer.sends.put_nowait(HELLO)

    async def serve() -> None:
        with pytest.raises(Ended):
            await relay.serve(VM.vm_id, viewer)

    async with asyncio.TaskGroup() as group:
        _ = group.create_task(serve())
        await viewer.has(SERVER_INIT_BYTES)
        await commands.quit(guest.qmp)
        async with asyncio.timeout(WAIT_S):
            while guest.child.exit_status() is None:
                await asyncio.sleep(0.02)
        guest.fleet.end(VM.vm_id, "QEMU was told to quit")
    assert viewer.end == (VM_ENDED, "QEMU was told to quit")
