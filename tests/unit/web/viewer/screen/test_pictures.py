"""What is read of QEMU for a viewer: when it is sent, and what is kept for one who is slow."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from fakes.fake_viewer import FakeViewer

from qemu_node.web.access.session.websocket import HEAD_BYTES
from qemu_node.web.viewer.screen.pictures import READ_BYTES, Buffer, Pictures


class KeepingViewer(FakeViewer):
    """Keeps the frames that it was given, as a transport that could not send them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[memoryview] = []

    def write(self, frame: memoryview) -> bool:
        self.kept.append(frame[HEAD_BYTES:])
        return False


class GoneViewer(FakeViewer):
    """Whose browser has gone."""

    def write(self, frame: memoryview) -> bool:
        raise BrokenPipeError


class Qemu:
    """The other end of a viewer's connection."""

    def __init__(self) -> None:
        self.sock, self._ours = socket.socketpair()
        self.sock.setblocking(False)

    async def connect(self, viewer: FakeViewer, buffer: Buffer) -> Pictures:
        loop = asyncio.get_running_loop()
        _, pictures = await loop.create_unix_connection(
            lambda: Pictures(viewer, buffer), sock=self._ours
        )
        return pictures

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)


@pytest.fixture
async def qemu() -> AsyncIterator[Qemu]:
    qemu = Qemu()
    yield qemu
    qemu.sock.close()


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_all_viewers_share_one_buffer_while_they_are_quick() -> None:
    buffer, qemus = Buffer(), [Qemu(), Qemu()]
    first = buffer.view
    viewers = [FakeViewer(), FakeViewer()]
    pictures = [
        await qemu.connect(viewer, buffer) for qemu, viewer in zip(qemus, viewers, strict=True)
    ]
    for number, qemu in enumerate(qemus):
        for _ in range(10):
            await qemu.send(bytes([number]) * 1000)
    for number, viewer in enumerate(viewers):
        await until(lambda viewer=viewer: len(viewer.got) == 10_000)
        assert set(viewer.got) == {number}
    assert buffer.view is first
    for one, qemu in zip(pictures, qemus, strict=True):
        one.close(b"")
        qemu.sock.close()


async def test_what_a_viewer_keeps_is_not_overwritten_by_what_comes_next(qemu: Qemu) -> None:
    viewer, buffer = KeepingViewer(), Buffer()
    pictures = await qemu.connect(viewer, buffer)
    for number in range(5):
        await qemu.send(bytes([number]) * 100)
        await until(lambda number=number: len(viewer.kept) > number)
    assert [bytes(frame) for frame in viewer.kept] == [bytes([n]) * 100 for n in range(5)]
    pictures.close(b"")


async def test_qemu_is_not_read_until_a_slow_viewer_has_room(qemu: Qemu) -> None:
    viewer = FakeViewer()
    viewer.reads.clear()
    pictures = await qemu.connect(viewer, Buffer())
    running = asyncio.ensure_future(pictures.run())
    sending = asyncio.ensure_future(qemu.send(bytes(8 << 20)))
    await until(lambda: len(viewer.got) > 0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(viewer.got) <= READ_BYTES
    assert not sending.done()
    viewer.reads.set()
    await sending
    await until(lambda: len(viewer.got) == 8 << 20)
    qemu.sock.close()
    await running


async def test_an_error_of_the_viewers_socket_is_raised_where_it_is_waited_for(qemu: Qemu) -> None:
    pictures = await qemu.connect(GoneViewer(), Buffer())
    await qemu.send(b"picture")
    with pytest.raises(BrokenPipeError):
        await pictures.run()
    pictures.close(b"")


async def test_keys_wait_for_a_qemu_that_does_not_read_and_its_end_is_noticed(qemu: Qemu) -> None:
    pictures = await qemu.connect(FakeViewer(), Buffer())
    sending = asyncio.ensure_future(pictures.send(bytes(8 << 20)))
    await until(lambda: not pictures._taken.is_set())
    assert not sending.done()
    qemu.sock.close()
    await sending
    await pictures.run()
    pictures.close(b"after the end")
