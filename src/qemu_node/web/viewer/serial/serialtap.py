"""The connection to a serial port: always read, and written as fast as the guest takes it.

Owns the pace, and the wait for the port. A client that does not read stops the guest's console and
its log, so nothing here waits for a viewer. QEMU serves one client at a time; whoever connects
beside it gets nothing until that one leaves, so the port is not entered while somebody has it. Then
the connection may be to another console that has it and shares it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from qemu_node.errors import QmpError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.concurrency.flag import Flag
from qemu_node.host.sockets import connect_unix
from qemu_node.qmp import commands
from qemu_node.units import KIB
from qemu_node.web.viewer.contract import VMs

READ_BYTES = 64 * KIB
TYPED_BYTES = 64 * KIB
"""Input that a guest has not taken yet; more is refused."""
CONNECT_S = 5.0
TAKEN_POLL_S = 1.0

FAST_BYTES = 64 * KIB
"""In a second: more is paced."""
PAUSE_S = 0.005
"""QEMU writes six bytes at a time: without pauses a guest that floods costs most of a core.

The price: meanwhile the socket is full now and then, and then QEMU logs a byte twice
(chardev/char.c, qemu_chr_write_buffer, 7.2)."""


class Pacer:
    """When to pause between two reads: pure, the clock is handed in."""

    def __init__(self) -> None:
        self._level_bytes = 0.0
        self._at_s: float | None = None

    def pause_s(self, count: int, now_s: float) -> float:
        """Return how long to pause after `count` bytes were read at `now_s`."""
        if self._at_s is not None:
            self._level_bytes -= max(now_s - self._at_s, 0.0) * FAST_BYTES
        self._at_s = now_s
        self._level_bytes = min(max(self._level_bytes, 0.0) + count, 2.0 * FAST_BYTES)
        return PAUSE_S if self._level_bytes > FAST_BYTES else 0.0


class Tap:
    """One VM's port. `run` once; it may be opened again after it was lost."""

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        """Call `on_data` with whatever the guest prints; it must not block."""
        self._on_data = on_data
        self._pacer = Pacer()
        self._typed = bytearray()
        self._has_typed = Flag()
        self._is_open = False

    def type(self, data: bytes) -> bool:
        """Send `data` to the guest; False if the guest takes nothing now: it was dropped."""
        if not self._is_open or len(self._typed) + len(data) > TYPED_BYTES:
            return False
        self._typed += data
        self._has_typed.set()
        return True

    async def run(self, sock: socket.socket, on_open: Callable[[], None]) -> None:
        """Pass bytes both ways until the other end of `sock` closes it; then close it here."""
        with sock:
            self._typed.clear()
            self._is_open = True
            on_open()
            try:
                _ = await race(self._read(sock), self._write(sock))
            except ConnectionResetError:
                pass
            finally:
                self._is_open = False

    async def _read(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(sock, READ_BYTES):
            self._on_data(data)
            pause_s = self._pacer.pause_s(len(data), loop.time())
            # Also without a pause others get their turn: sock_recv returns at once if there is
            # something.
            await asyncio.sleep(pause_s)

    async def _write(self, sock: socket.socket) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_typed.wait()
            self._has_typed.clear()
            data = bytes(self._typed)
            self._typed.clear()
            try:
                await loop.sock_sendall(sock, data)
            except (BrokenPipeError, ConnectionResetError):
                # The reader finds the same end, after the guest's last words.
                await Flag().wait()


async def open_port(path: Path) -> socket.socket:
    """Return a connection to QEMU's port at `path`.

    Raises:
        OSError: there is no such port.
        TimeoutError: QEMU takes no connection.
    """
    async with asyncio.timeout(CONNECT_S):
        return await connect_unix(path)


async def is_taken(fleet: VMs, vm_id: str) -> bool | None:
    """Tell whether somebody else has the port; None where QEMU does not say.

    Raises:
        VMNotFoundError: the VM does not run.
    """
    with contextlib.suppress(QmpError, TimeoutError):
        async with asyncio.timeout(CONNECT_S), fleet.monitor(vm_id) as qmp:
            return await commands.is_serial_taken(qmp)
    return None
