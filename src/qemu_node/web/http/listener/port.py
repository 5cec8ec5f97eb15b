"""The console's port: an accept loop of our own, because TLS and plain http share it.

Owns the listening sockets, the limits on who opens connections, and what is done when no file can
be opened any more. Does not own HTTP (aiohttp), nor the certificate (`tls`).

The first byte is looked at without being taken (MSG_PEEK): 0x16 begins a TLS handshake (RFC 8446
5.1), anything else is `plain`. What opens slowly is given up.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from aiohttp import web

from qemu_node.errors import HostError
from qemu_node.host.concurrency.flag import Flag
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.web.http.listener.openers import may_open
from qemu_node.web.http.listener.plain import PlainHttp

log = logging.getLogger(__name__)

_OPEN_MAX_S = 10.0
"""How long a client may take for its first byte, and again for the handshake."""
UNREAD_MAX_S = 60.0
"""How long a client may leave unread what was sent to it, or be out of reach meanwhile."""
_BACKLOG = 512
_TLS_HANDSHAKE = b"\x16"
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_ROOM_PAUSE_S = 0.5
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""A kernel without it, or with it switched off (sysctl net.ipv6.conf.all.disable_ipv6)."""
_LOGGED_EVERY_S = 60.0


def listen(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Return listening sockets; the caller closes them.

    Args:
        addresses: IP addresses; none: all of the node, also those that it gets later.
        port: 0: a free one, the same for all addresses only if there is one address.

    Raises:
        HostError: an address or the port cannot be had; nothing is left open.
    """
    wanted = list(addresses) or ["0.0.0.0", "::"]
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for address in wanted:
            try:
                sock = undo.enter_context(_listen(address, port))
            except OSError as exc:
                if exc.errno in _NO_IPV6 and not addresses and sockets:
                    continue
                raise _listen_error(address, port, exc) from exc
            sockets.append(sock)
        undo.pop_all()
    return sockets


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            # Also where another program has the port of IPv4: each says so by itself.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_error(address: str, port: int, exc: OSError) -> HostError:
    hint = None
    if exc.errno == errno.EADDRINUSE:
        hint = f"`ss -ltnp sport = :{port}` says who has it; or set another web.port in node.toml"
    elif exc.errno == errno.EADDRNOTAVAIL:
        hint = "web.addresses in node.toml must be addresses of this node"
    elif exc.errno == errno.EACCES:
        hint = "ports below 1024 are root's: set another web.port in node.toml"
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return HostError(f"cannot listen on {where}: {exc.strerror}", hint=hint)


class Port:
    """Serves the connections of listening sockets. For `async with`."""

    def __init__(
        self,
        server: web.Server,
        sockets: Sequence[socket.socket],
        *,
        tls: Callable[[], ssl.SSLContext] | None,
        is_own_host: Callable[[str], bool],
    ) -> None:
        """Take over `sockets`.

        Args:
            server: Of aiohttp's runner.
            sockets: Of `listen`.
            tls: The certificate of now; None: plain http is served, for loopback alone.
            is_own_host: Whether the value of `Host` names this node.
        """
        self._server = server
        self._sockets = tuple(sockets)
        self._tls = tls
        self._is_own_host = is_own_host
        self._tasks = TaskOwner("port")
        self._opening: dict[socket.socket, str] = {}
        self._logged_at = -_LOGGED_EVERY_S

    async def __aenter__(self) -> Self:
        for sock in self._sockets:
            _ = self._tasks.start(self._accept(sock), name="accept connections")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Accept no more; what is open stays open."""
        await self._tasks.aclose()
        for sock in self._sockets:
            sock.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # `sock_accept` returns at once as long as somebody waits. Whoever connects again and
            # again must not keep everything else from its turn.
            await asyncio.sleep(0)
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as exc:
                # Else a client that has gone meanwhile.
                if exc.errno in _NO_ROOM:
                    self._complain("no connection can be accepted", str(exc.strerror))
                    await asyncio.sleep(_NO_ROOM_PAUSE_S)
                continue
            peer = str(address[0])
            if not self._has_room(peer):
                self._complain("a connection was refused: too many are open", peer)
                sock.close()
                continue
            _bound(sock)
            self._opening[sock] = peer
            _ = self._tasks.start(self._open(sock), name="open a connection")

    def _has_room(self, peer: str) -> bool:
        connections = self._server.connections
        return may_open(
            peer,
            opening=list(self._opening.values()),
            is_open=_peers(connections),
            open_count=len(connections),
        )

    async def _open(self, sock: socket.socket) -> None:
        is_taken = False
        try:
            is_tls = self._tls is not None
            if self._tls is not None:
                async with asyncio.timeout(_OPEN_MAX_S):
                    first = await _peek(sock)
                if not first:
                    return
                is_tls = first == _TLS_HANDSHAKE
            is_taken = True
            await self._hand_over(sock, is_tls=is_tls)
        except (OSError, TimeoutError):
            # ssl.SSLError is an OSError: a scanner, a browser that does not trust the certificate.
            log.debug("a connection was not opened", exc_info=True)
        finally:
            del self._opening[sock]
            if not is_taken:
                sock.close()

    async def _hand_over(self, sock: socket.socket, *, is_tls: bool) -> None:
        """Give the connection to its protocol; from here on a transport owns the socket."""
        loop = asyncio.get_running_loop()
        try:
            if self._tls is not None and not is_tls:
                _, plain = await loop.connect_accepted_socket(
                    lambda: PlainHttp(self._is_own_host), sock
                )
                # Until then it counts as one that is being opened: aiohttp does not know it.
                await plain.ended()
            elif self._tls is None:
                await loop.connect_accepted_socket(self._server, sock)
            else:
                await loop.connect_accepted_socket(
                    self._server,
                    sock,
                    ssl=self._tls(),
                    ssl_handshake_timeout=_OPEN_MAX_S,
                    ssl_shutdown_timeout=_OPEN_MAX_S,
                )
        except BaseException:
            with contextlib.suppress(OSError):
                sock.close()
            raise

    def _complain(self, event: str, what: str) -> None:
        """Log at most once a minute: whoever causes this causes it often."""
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= _LOGGED_EVERY_S:
            self._logged_at = now
            log.warning(event, extra={"reason": what})


def _bound(sock: socket.socket) -> None:
    """Have the kernel end the connection of a client that reads nothing.

    It would keep what it was sent in our memory for as long as it likes, whatever it has asked for;
    aiohttp waits for ever. It also ends a connection whose client has gone without a word, minutes
    before the kernel would give it up (man 7 tcp, TCP_USER_TIMEOUT; also while the client's window
    is closed since Linux 5.11).
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * UNREAD_MAX_S))


def _peers(connections: Sequence[web.RequestHandler]) -> Iterator[str]:
    for connection in connections:
        peer = connection.peername
        yield str(peer[0]) if isinstance(peer, tuple) else ""


async def _peek(sock: socket.socket) -> bytes:
    """Return the first byte that is sent, and leave it there; nothing if the client ends."""
    loop = asyncio.get_running_loop()
    is_readable = Flag()
    loop.add_reader(sock, is_readable.set)
    try:
        await is_readable.wait()
        return sock.recv(1, socket.MSG_PEEK)
    finally:
        loop.remove_reader(sock)
