"""A viewer of a screen, as bare as can be: it must cost less than the relays that it measures.

Owns the client's side of a WebSocket (RFC 6455) on a blocking socket, and of the console's login.
"""

import http.client
import json
import os
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from bench.console.screens import ECHO, HELLO, MARK, echo_request, flood_request
from qemu_node.units import MIB

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60.0
_BINARY, _TEXT = 2, 1


def _context() -> ssl.SSLContext:
    """Return what trusts every certificate: those here are self-made."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass
class Console:
    """Somebody who has logged in to a console."""

    url: str
    cookie: str = ""

    def log_in(self, body: dict[str, object]) -> Self:
        """Begin a session."""
        reply, cookie = self._post("/api/v1/login", body)
        assert cookie, reply
        self.cookie = cookie.partition(";")[0]
        return self

    def open_screen(self, vm_id: str) -> "Viewer":
        """Return a viewer of a VM's screen, after the ticket."""
        path = f"/api/v1/vms/{vm_id}"
        reply, _ = self._post(f"{path}/ticket", {"kind": "screen", "mode": "view"})
        viewer = Viewer.connect(
            self.url, f"{path}/screen", {"Cookie": self.cookie, "Origin": self.url}
        )
        viewer.send(json.dumps({"ticket": reply["ticket"]}).encode(), opcode=_TEXT)
        answer = viewer.receive()
        assert answer == b"ok", answer
        return viewer

    def _post(self, path: str, body: dict[str, object]) -> tuple[dict[str, str], str]:
        url = urlsplit(self.url)
        host, port = url.hostname or "", url.port
        connection = (
            http.client.HTTPSConnection(host, port, context=_context(), timeout=_TIMEOUT_S)
            if url.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        )
        headers = {"Content-Type": "application/json", "X-QN": "1", "Origin": self.url}
        if self.cookie:
            headers["Cookie"] = self.cookie
        connection.request("POST", path, json.dumps(body), headers)
        reply = connection.getresponse()
        data = reply.read()
        if reply.status != 200:
            raise OSError(f"{path}: the console answered {reply.status}: {data[:200]!r}")
        return json.loads(data), reply.getheader("Set-Cookie", "")


@dataclass
class Viewer:
    """One WebSocket, or with `is_bare` one connection to the VNC server itself."""

    sock: socket.socket
    is_bare: bool = False
    _buffer: bytearray = field(default_factory=lambda: bytearray(_CHUNK_BYTES))
    _unread: bytearray = field(default_factory=bytearray)

    @classmethod
    def connect(cls, url: str, path: str, headers: dict[str, str]) -> Self:
        """Open a WebSocket.

        Raises:
            OSError: the server refuses it.
        """
        parts = urlsplit(url)
        sock = socket.create_connection((parts.hostname, parts.port), timeout=_TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "https":
            sock = _context().wrap_socket(sock)
        lines = {
            "Host": parts.netloc,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
            "Sec-WebSocket-Protocol": "binary",
        } | headers
        request = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        sock.sendall(f"GET {path} HTTP/1.1\r\n{request}\r\n".encode())
        viewer = cls(sock)
        while b"\r\n\r\n" not in viewer._unread:
            viewer._read()
        head, _, rest = bytes(viewer._unread).partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise OSError(f"{url}{path}: no WebSocket: {head[:200]!r}")
        viewer._unread = bytearray(rest)
        return viewer

    @classmethod
    def bare(cls, path: str) -> Self:
        """Connect to a VNC server on a unix socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_TIMEOUT_S)
        sock.connect(path)
        return cls(sock, is_bare=True)

    def close(self) -> None:
        """Let go."""
        self.sock.close()

    def shake_hands(self) -> None:
        """Do what RFB asks for before the first picture (RFC 6143, 7.3)."""
        self._expect(len(HELLO.version))
        self.send(HELLO.version)
        self._expect(len(HELLO.security))
        self.send(b"\x01")
        self._expect(len(HELLO.result))
        self.send(b"\x01")
        self._expect(len(HELLO.init))

    def flood(self, mib: int) -> float:
        """Have `mib` MiB sent; return the seconds until the last byte is here.

        Frames are not looked at: what they are for each relay is its own business.
        """
        self.send(flood_request(mib))
        begin = time.perf_counter()
        view = memoryview(self._buffer)
        left, last = mib * MIB, b""
        # A frame's header may end with the same byte; not where the payload must be complete.
        while left > 0 or last != MARK:
            got = self.sock.recv_into(view)
            if not got:
                raise OSError("the relay has closed the connection")
            left -= got
            last = bytes(view[got - 1 : got])
        return time.perf_counter() - begin

    def echo(self) -> float:
        """Return the milliseconds of a message there and the answer back."""
        request = self._framed(echo_request())
        begin = time.perf_counter()
        self.sock.sendall(request)
        self._expect(len(ECHO))
        return 1000 * (time.perf_counter() - begin)

    def send(self, data: bytes, *, opcode: int = _BINARY) -> None:
        """Send a message of at most 125 bytes."""
        self.sock.sendall(self._framed(data, opcode))

    def receive(self) -> bytes:
        """Return the payload of the next frame that carries data."""
        while True:
            first, second = self._take(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", self._take(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._take(8))
            payload = self._take(size)
            if first & 0x0F in (0, _TEXT, _BINARY):
                return payload

    def _framed(self, data: bytes, opcode: int = _BINARY) -> bytes:
        if self.is_bare:
            return data
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))
        return bytes((0x80 | opcode, 0x80 | len(data))) + mask + masked

    def _expect(self, count: int) -> None:
        """Take `count` bytes of the VNC server, in whichever frames they come."""
        if self.is_bare:
            self._take(count)
            return
        got = 0
        while got < count:
            got += len(self.receive())
        assert got == count, (got, count)

    def _take(self, count: int) -> bytes:
        while len(self._unread) < count:
            self._read()
        taken = bytes(self._unread[:count])
        del self._unread[:count]
        return taken

    def _read(self) -> None:
        got = self.sock.recv(_CHUNK_BYTES)
        if not got:
            raise OSError("the relay has closed the connection")
        self._unread += got
