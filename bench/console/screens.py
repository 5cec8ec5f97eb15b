"""VNC servers on unix sockets, one picture or a flood of bytes: what relays are measured with.

Owns the server's side of RFB 3.8 as far as a relay can tell. A thread for each connection: what
sends bytes as fast as they are taken must not wait for Python. What is asked for is in a
FramebufferUpdateRequest (RFC 6143, 7.5.3), which every relay lets pass.
"""

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

from qemu_node.units import MIB

_PIXELS = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the server says before the first picture, in four parts."""

    version: bytes = b"RFB 003.008\n"
    security: bytes = b"\x01\x01"
    result: bytes = b"\0\0\0\0"
    init: bytes = struct.pack(">HH", 1280, 800) + _PIXELS + struct.pack(">I", 4) + b"QEMU"


HELLO = Hello()
ECHO = bytes(64)
MARK = b"\xff"
"""What a flood of zeros ends with: one byte, which no frame can cut."""
FLOOD = bytes(256 << 10)

_REQUEST = struct.Struct(">BBHHHH")
_UPDATE_REQUEST = 3


def echo_request() -> bytes:
    """Return the message that is answered by `ECHO`."""
    return _REQUEST.pack(_UPDATE_REQUEST, 1, 0, 0, 1, 1)


def flood_request(mib: int) -> bytes:
    """Return the message that is answered by so many MiB; at most 65535."""
    return _REQUEST.pack(_UPDATE_REQUEST, 0, mib, 0, 1, 1)


def serve(path: Path) -> None:
    """Listen at `path` until the process ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()


def _accept(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_talk, args=(sock,), daemon=True).start()


def _talk(sock: socket.socket) -> None:
    with sock, contextlib.suppress(ConnectionError, EOFError):
        sock.sendall(HELLO.version)
        _ = _read(sock, len(HELLO.version))
        sock.sendall(HELLO.security)
        _ = _read(sock, 1)
        sock.sendall(HELLO.result)
        _ = _read(sock, 1)
        sock.sendall(HELLO.init)
        while True:
            _, is_echo, mib, *_ = _REQUEST.unpack(_read(sock, _REQUEST.size))
            if is_echo:
                sock.sendall(ECHO)
            else:
                _flood(sock, mib * MIB)


def _flood(sock: socket.socket, size_bytes: int) -> None:
    for _ in range(size_bytes // len(FLOOD)):
        sock.sendall(FLOOD)
    sock.sendall(MARK)


def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
