"""A VM's serial port, as a console of this node shares it.

Owns finding the consoles' sockets and joining one. Does not own the sockets (`web.viewer.serial`),
nor QEMU's port, which serves one client at a time.

Whoever joins sends one line that says how, and gets one that says how it is with the port. After
`open` the connection is the port.
"""

import asyncio
import socket
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from qemu_node.config.node import Paths
from qemu_node.host.sockets import connect_unix

JOIN_S = 5.0
_ANSWER_MAX_BYTES = 64


class Join(StrEnum):
    """How somebody joins. The value is the first line of the connection."""

    CONTROL = "control"
    """Looks and types."""
    VIEW = "view"
    """Only looks."""
    SHARE = "share"
    """Is a console itself, for its own viewers. It joins only a console that has QEMU's port, so
    that consoles never join each other in a circle."""


def shared_sockets(paths: Paths, vm_id: str) -> tuple[Path, ...]:
    """Return where consoles may share the port of a VM, the daemon's socket first."""
    return tuple(directory / f"{vm_id}.sock" for directory in paths.web_run_dirs)


async def join_any(
    sockets: Iterable[Path], how: Join, *, timeout_s: float = JOIN_S
) -> socket.socket | None:
    """Return a connection to the first console that shares the port; None if none does now."""
    for path in sockets:
        if (sock := await _join(path, how, timeout_s)) is not None:
            return sock
    return None


async def _join(path: Path, how: Join, timeout_s: float) -> socket.socket | None:
    loop = asyncio.get_running_loop()
    answer = b""
    try:
        async with asyncio.timeout(timeout_s):
            sock = await connect_unix(path)
            try:
                await loop.sock_sendall(sock, f"{how}\n".encode())
                while not answer.endswith(b"\n") and len(answer) < _ANSWER_MAX_BYTES:
                    # Byte by byte: what follows is the guest's.
                    byte = await loop.sock_recv(sock, 1)
                    if not byte:
                        break
                    answer += byte
            except BaseException:
                sock.close()
                raise
    except (OSError, TimeoutError):
        return None
    if answer == b"open\n":
        return sock
    sock.close()
    return None
