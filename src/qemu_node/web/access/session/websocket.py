"""A WebSocket of a screen or a serial port, after all checks.

Owns its limits: frames, idle time, readers that are too slow; and its end. Does not own who may
have one (`guard`) nor what it carries.
"""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import NoReturn

from aiohttp import WSMsgType, web

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.text import printable
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.access.session.tickets import Mode
from qemu_node.web.fleet.model import VMView

log = logging.getLogger(__name__)

FRAME_MAX_BYTES = 1 << 20
HEAD_BYTES = 10
"""The longest head of a frame that a server sends."""
PING_S = 30.0
SLOW_READER_S = 60.0
"""How long what is sent may wait for a client that does not read."""
_CLOSE_S = 0.5
"""How long a client has to take note of the end."""

IDLE = 4408
SLOW = 4409
FAILED = 4500
"""Close codes: nothing was sent for long; the client does not read; an error, with its words."""


class SocketEndedError(Exception):
    """The socket is closed, by whichever side; `Socket.serving` swallows it."""


def frame_head(size: int) -> bytes:
    """Return the head of a whole binary frame of a server with `size` bytes (RFC 6455, 5.2)."""
    if size < 126:
        return struct.pack(">BB", 0x82, size)
    if size < 1 << 16:
        return struct.pack(">BBH", 0x82, 126, size)
    return struct.pack(">BBQ", 0x82, 127, size)


class Socket:
    """What the handler of a screen or a serial port sends to and receives from."""

    def __init__(
        self,
        ws: web.WebSocketResponse,
        request: web.Request,
        *,
        grant: Grant,
        vm: VMView,
        idle_s: float,
    ) -> None:
        self._ws = ws
        self._request = request
        self._idle_s = idle_s
        self._used_at = 0.0
        self._ended: tuple[int, str] | None = None
        self._limit: asyncio.Timeout | None = None
        self.grant = grant
        self.vm = vm
        self.mode: Mode = "view"
        """`view`: nothing that the client sends may reach the guest."""
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def is_control(self) -> bool:
        """Whether what the client sends is for the guest."""
        return self.mode == "control"

    @property
    def response(self) -> web.WebSocketResponse:
        """The answer of aiohttp, which the handler returns."""
        return self._ws

    async def send(self, data: bytes | str) -> None:
        """Send a binary frame, or a text frame; return when there is room for the next.

        Raises:
            SocketEndedError: the client is gone, or too slow.
        """
        self._used_at = asyncio.get_running_loop().time()
        if isinstance(data, str):
            await self._in_time(self._ws.send_str(data))
        else:
            await self._in_time(self._ws.send_bytes(data))
        self.bytes_out += len(data)

    def write(self, frame: memoryview) -> bool:
        """Send a binary frame at once; tell whether `frame` may be used again.

        For what comes in large pieces: nothing is copied, and no task is needed. aiohttp's own
        frames come before or behind it, because each is written whole, too.

        Args:
            frame: `HEAD_BYTES`, which are overwritten, and the payload.

        Raises:
            SocketEndedError: the client is gone.
        """
        transport = self._request.transport
        if transport is None or transport.is_closing() or self._ws.closed:
            raise SocketEndedError
        self._used_at = asyncio.get_running_loop().time()
        size = len(frame) - HEAD_BYTES
        head = frame_head(size)
        begin = HEAD_BYTES - len(head)
        frame[begin:HEAD_BYTES] = head
        transport.write(frame[begin:])
        self.bytes_out += size
        # From Python 3.12 a transport keeps what it could not send, and no copy.
        return transport.get_write_buffer_size() == 0

    @property
    def has_room(self) -> bool:
        """Whether the next frame should be written now, or after `room`."""
        return not self._request.protocol.writing_paused

    async def room(self) -> None:
        """Return when there is room for the next frame.

        Raises:
            SocketEndedError: the client is gone, or too slow.
        """
        await self._in_time(self._request.writer.drain())

    async def _in_time(self, sending: Awaitable[object]) -> None:
        """Wait for what a client has to read.

        Raises:
            SocketEndedError: the client is gone, or too slow.
        """
        try:
            async with asyncio.timeout(SLOW_READER_S):
                _ = await sending
        except TimeoutError as exc:
            self.end(SLOW, "the client does not read")
            raise SocketEndedError from exc
        except (ConnectionError, RuntimeError) as exc:
            # RuntimeError: aiohttp's, for a socket that is closed.
            raise SocketEndedError from exc

    async def receive(self) -> bytes | str:
        """Return the next frame: binary or text.

        Raises:
            SocketEndedError: there is none any more.
        """
        message = await self._ws.receive()
        match message.type:
            case WSMsgType.BINARY | WSMsgType.TEXT:
                self._used_at = asyncio.get_running_loop().time()
                data: bytes | str = message.data
                self.bytes_in += len(data)
                return data
            case _:
                raise SocketEndedError

    def end(self, code: int, reason: str) -> None:
        """End the socket now, from anywhere: its handler is cancelled, its client told.

        One that ends already goes on with that, whatever the reason.
        """
        if self._ended is None:
            self._ended = (code, reason)
            if self._limit is not None:
                self._limit.reschedule(asyncio.get_running_loop().time())

    def fail(self, code: int, reason: str) -> NoReturn:
        """End the socket, from its own handler.

        Raises:
            SocketEndedError: always.
        """
        self._ended = self._ended or (code, reason)
        raise SocketEndedError

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run the handler's block until the socket ends; then close it.

        No error leaves it, for there is nobody to answer any more: the client gets a close code.
        """
        loop = asyncio.get_running_loop()
        self._used_at = loop.time()
        self._watching = loop.call_later(self._idle_s, self._look_whether_idle)
        ended = (1000, "")
        try:
            async with asyncio.timeout(None) as self._limit:
                if self._ended is not None:
                    self._limit.reschedule(loop.time())
                yield
        except asyncio.CancelledError:
            ended = (1001, "the console ends")
            raise
        except Exception as exc:
            ended = self._judge(exc)
        finally:
            # The client has some time for its goodbye. Meanwhile there is nothing to cancel, and a
            # limit that has been left takes no other time.
            self._limit = None
            self._watching.cancel()
            await finish(self._close(*(self._ended or ended)))

    def _judge(self, error: Exception) -> tuple[int, str]:
        """Return the close code and reason of what the handler's block raised."""
        for exc in _leaves(error):
            if isinstance(exc, SocketEndedError) or (
                isinstance(exc, TimeoutError) and self._ended is not None
            ):
                continue
            if isinstance(exc, NodeError):
                return FAILED, str(exc)
            log.error("socket failed", extra={"vm_id": self.vm.vm_id}, exc_info=error)
            return FAILED, "the daemon failed"
        return 1000, ""

    def _look_whether_idle(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._used_at + self._idle_s - loop.time()
        if left_s <= 0:
            self.end(IDLE, "nothing happened for long")
        else:
            self._watching = loop.call_later(left_s, self._look_whether_idle)

    async def _close(self, code: int, reason: str) -> None:
        transport = self._request.transport
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._ws.close(code=code, message=_reason(reason))
        except (TimeoutError, ConnectionError, RuntimeError, asyncio.CancelledError):
            # The client does not read, does not answer, or is gone. Nobody cancels this: it is
            # aiohttp, whose wait for a reader was cancelled before; then every later one is
            # (3.14.5, BaseProtocol._drain_helper).
            pass
        if transport is not None:
            if _has_unsent(transport):
                # Nobody reads that; a close would wait for it as long as the connection lives.
                transport.abort()
            transport.close()


def _has_unsent(transport: asyncio.Transport) -> bool:
    try:
        return transport.get_write_buffer_size() > 0
    except AttributeError:
        # asyncio's transport over TLS forgets its protocol when it is closed a second time.
        return False


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _reason(text: str) -> bytes:
    # A control frame holds 125 bytes, two of them the code (RFC 6455 5.5).
    return printable(text).encode()[:120].decode(errors="ignore").encode()
