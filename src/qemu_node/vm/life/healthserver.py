"""The health port: HTTP 200 while the guest agent answers, for Nomad's service checks.

Owns a listener per VM that answers every GET the same way. Speaks just enough HTTP/1.1 for a check:
one request per connection, no body read, nothing of the request used.
"""

import asyncio
import contextlib
import logging
import time

from qemu_node.errors import GuestAgentError, HostError
from qemu_node.qga.agent import GuestAgent

log = logging.getLogger(__name__)

_REQUEST_MAX_BYTES = 8192
_REQUEST_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 8
"""At a time, of one VM: anyone who reaches the port could take all of the driver's files."""

_PING_TIMEOUT_S = 3.0
_FRESH_S = 2.0
"""An answer of the agent serves all checks for this long: an idle guest is not to be kept awake."""


class HealthServer:
    """Answers for one VM's guest agent."""

    def __init__(self, agent: GuestAgent) -> None:
        self._agent = agent
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.StreamWriter, None] = {}
        """Oldest first, as the next."""
        self._without_request: dict[asyncio.StreamWriter, None] = {}
        """Those that have not yet said what they want."""
        self._pinging = asyncio.Lock()
        self._answered_at = 0.0
        self._problem: str | None = "not asked yet"

    async def listen(self, host_ip: str, port: int) -> None:
        """Begin to answer on `host_ip`:`port`.

        Raises:
            HostError: the port is taken, or may not be used.
        """
        try:
            self._server = await asyncio.start_server(
                self._serve, host_ip or None, port, limit=_REQUEST_MAX_BYTES
            )
        except OSError as exc:
            raise HostError(f"cannot listen on {host_ip}:{port}: {exc.strerror}") from exc

    async def close(self) -> None:
        """Stop answering. Idempotent."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                    await self._server.wait_closed()
            self._server = None

    async def problem(self) -> str | None:
        """Return why the agent is not healthy, or None while it answers."""
        async with self._pinging:
            if time.monotonic() - self._answered_at > _FRESH_S:
                try:
                    await self._agent.ping(timeout_s=_PING_TIMEOUT_S)
                    self._problem = None
                except GuestAgentError as exc:
                    self._problem = str(exc)
                self._answered_at = time.monotonic()
            return self._problem

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._make_room()
        self._connections[writer] = None
        self._without_request[writer] = None
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                request = await reader.readuntil(b"\r\n\r\n")
            self._without_request.pop(writer, None)
            if request.split(b" ", 1)[0] not in (b"GET", b"HEAD"):
                _respond(writer, 405, "Method Not Allowed", "only GET")
            elif (problem := await self.problem()) is None:
                _respond(writer, 200, "OK", "guest agent answers")
            else:
                _respond(writer, 503, "Service Unavailable", problem)
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        finally:
            self._without_request.pop(writer, None)
            self._connections.pop(writer, None)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _make_room(self) -> None:
        """End a connection if there are too many: the longest silent one, else the longest open."""
        if len(self._connections) >= _MAX_CONNECTIONS:
            victim = next(iter(self._without_request or self._connections))
            self._without_request.pop(victim, None)
            self._connections.pop(victim, None)
            victim.transport.abort()


def _respond(writer: asyncio.StreamWriter, status: int, reason: str, text: str) -> None:
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
