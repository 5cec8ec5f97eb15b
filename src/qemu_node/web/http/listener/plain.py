"""A connection that does not speak TLS: one short answer, then its end.

Owns the limits of it: how much is read, and for how long. Does not own the answer (`redirect`).
"""

import asyncio
from collections.abc import Callable

from qemu_node.host.concurrency.flag import Flag
from qemu_node.web.http.listener.redirect import answer, is_complete

HEAD_MAX_S = 10.0
"""How long the request may take."""
_LINGER_S = 1.0
"""How long the client has to read the answer. With unread data of its own, the end of a connection
would be a reset, which takes the answer from it (RFC 9112 9.6)."""


class PlainHttp(asyncio.Protocol):
    """Of one connection."""

    def __init__(self, is_own_host: Callable[[str], bool]) -> None:
        self._is_own_host = is_own_host
        self._head = bytearray()
        self._is_answered = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = Flag()

    async def ended(self) -> None:
        """Return when the connection has ended; a cancellation ends it."""
        try:
            await self._has_ended.wait()
        finally:
            if self._transport is not None:
                self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(HEAD_MAX_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Answer once the headers are there; what comes later is dropped."""
        if self._is_answered or self._transport is None:
            return
        self._head += data
        if not is_complete(bytes(self._head)):
            return
        self._is_answered = True
        self._transport.write(answer(bytes(self._head), is_own_host=self._is_own_host))
        self._transport.write_eof()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_LINGER_S, self._transport.abort)

    def eof_received(self) -> bool:
        """Close: the client has got the answer, or sends no request."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._transport = None
        self._has_ended.set()
        if self._timer is not None:
            self._timer.cancel()
