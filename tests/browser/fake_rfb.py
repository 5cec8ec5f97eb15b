"""A VNC server of one picture, which remembers keys (RFC 6143, version 3.8)."""

import struct
from dataclasses import dataclass, field

from browser.fake_vms import SIZE, picture_of

from qemu_node.web.access.session.websocket import Socket

_WIDTH, _HEIGHT = SIZE
# 32 bits, depth 24, little-endian, true colour; red at 0, as noVNC asks for it anyway.
_PIXELS = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)


@dataclass
class FakeScreen:
    """One viewer's server."""

    socket: Socket
    keys: list[tuple[int, bool]] = field(default_factory=list)
    """Keysyms that went down or up."""
    pointer: list[tuple[int, int, int]] = field(default_factory=list)
    """Buttons, x and y."""
    _held: bytes = b""

    async def _read(self, count: int) -> bytes:
        while len(self._held) < count:
            data = await self.socket.receive()
            assert isinstance(data, bytes)
            self._held += data
        data, self._held = self._held[:count], self._held[count:]
        return data

    async def serve(self) -> None:
        """Speak until the viewer goes."""
        await self.socket.send(b"RFB 003.008\n")
        assert await self._read(12) == b"RFB 003.008\n"
        await self.socket.send(b"\x01\x01")
        await self._read(1)
        await self.socket.send(b"\0\0\0\0")
        await self._read(1)
        name = b"QEMU <b>hostile</b>"
        head = struct.pack(">HH", _WIDTH, _HEIGHT) + _PIXELS
        await self.socket.send(head + struct.pack(">I", len(name)) + name)
        shown = False
        while True:
            kind = (await self._read(1))[0]
            match kind:
                case 0:
                    await self._read(19)
                case 2:
                    count = struct.unpack(">xH", await self._read(3))[0]
                    await self._read(4 * count)
                case 3:
                    await self._read(9)
                    if not shown:
                        shown = True
                        await self._send_picture()
                case 4:
                    down, keysym = struct.unpack(">B2xI", await self._read(7))
                    self.keys.append((keysym, bool(down)))
                case 5:
                    self.pointer.append(struct.unpack(">BHH", await self._read(5)))
                case 6:
                    await self._read(struct.unpack(">3xi", await self._read(7))[0])
                case _:
                    raise AssertionError(f"message {kind} was not asked for")

    async def _send_picture(self) -> None:
        pixels = picture_of(self.socket.vm).tobytes("raw", "RGBX")
        head = struct.pack(">BxHHHHHi", 0, 1, 0, 0, _WIDTH, _HEIGHT, 0)
        await self.socket.send(head + pixels[: 256 << 10])
        for at in range(256 << 10, len(pixels), 256 << 10):
            await self.socket.send(pixels[at : at + (256 << 10)])
