"""From QEMU's VNC server to one viewer: bytes, as fast as the viewer takes them.

Owns how little that costs, because a moving screen is megabytes a second for each viewer: what is
read lies behind room for a frame's head, so nothing is copied, and no task runs for it. One buffer
is enough for all viewers: it is free again when a read has been sent. Where it is not, because a
viewer is slow, that viewer keeps it, QEMU is not read for him until there is room, and it sends
less (ui/vnc.c, vnc_should_update). So what is held for a viewer is bounded by one buffer and what
the kernel's sockets hold. Does not own what goes the other way (`relay`).
"""

import asyncio

from qemu_node.host.concurrency.flag import Flag
from qemu_node.web.access.session.websocket import HEAD_BYTES
from qemu_node.web.viewer.contract import Viewer

READ_BYTES = 256 << 10
"""More than a unix socket holds by default (man 7 socket, wmem_default)."""


class Buffer:
    """What is read next, for whichever viewer it is."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(HEAD_BYTES + READ_BYTES))

    def replace(self) -> None:
        """Leave the present one to whoever keeps it."""
        self.view = memoryview(bytearray(HEAD_BYTES + READ_BYTES))


class Pictures(asyncio.BufferedProtocol):
    """QEMU's side of one viewer's connection. `run` keeps the pace."""

    def __init__(self, viewer: Viewer, buffer: Buffer) -> None:
        """Send to `viewer` what is read into `buffer`."""
        self._viewer = viewer
        self._buffer = buffer
        self._transport: asyncio.Transport | None = None
        self._is_over = False
        self._failure: Exception | None = None
        self._changed = Flag()
        self._taken = Flag()
        self._taken.set()

    async def run(self) -> None:
        """Return when QEMU has closed the connection; wait for a viewer who is slow meanwhile.

        Raises:
            Exception: what the viewer's socket raises at its end.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                return
            await self._viewer.room()
            if self._transport is not None:
                self._transport.resume_reading()

    async def send(self, data: bytes) -> None:
        """Send `data` to QEMU; return when it has room for more."""
        if self._transport is not None:
            self._transport.write(data)
        await self._taken.wait()

    def close(self, last: bytes) -> None:
        """Send `last`, and let go of QEMU."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(last)
            self._transport.close()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go."""
        return self._buffer.view[HEAD_BYTES:]

    def buffer_updated(self, nbytes: int) -> None:
        """Send what was read."""
        assert self._transport is not None
        if self._failure is not None:
            return
        try:
            if not self._viewer.write(self._buffer.view[: HEAD_BYTES + nbytes]):
                self._buffer.replace()
            has_room = self._viewer.has_room
        except Exception as exc:
            # asyncio would log it as a bug, and lose it.
            self._failure, has_room = exc, False
        if not has_room:
            self._transport.pause_reading()
            self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, whatever its cause."""
        self._transport = None
        self._is_over = True
        self._changed.set()
        self._taken.set()

    def pause_writing(self) -> None:
        """QEMU does not read."""
        self._taken.clear()

    def resume_writing(self) -> None:
        """QEMU reads again."""
        self._taken.set()
