"""One client's turn at a guest agent's socket.

Owns connecting, taking turns (QEMU's chardev serves one client, so all clients on this host share
a lock file), resynchronising, and deadlines. Does not own what commands mean (`agent`) nor the
format of messages (`wire`).

    GuestAgentError             no usable answer
    ├── AgentTimeoutError       no answer in time; the command may still be carried out
    ├── ChannelClosedError      QEMU closed the channel; the command may have been carried out
    ├── AgentRefusedError       the agent answered with an error (`wire`)
    └── CommandNotAllowedError  nothing was sent (`allowedcommands`)

QEMU accepts a client even if no agent runs in the guest, and keeps what is written until one does.
So only a synchronisation is sent until the agent has answered one. Otherwise an agent that starts
tomorrow would carry out today's command.
"""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Self, TypeVar

from qemu_node.errors import GuestAgentError, HostError
from qemu_node.host.files.lock import FileLock, LockBusyError
from qemu_node.host.sockets import connect_unix
from qemu_node.qga.allowedcommands import check_command
from qemu_node.qga.wire import (
    EXEC_LINE_MAX_BYTES,
    LINE_MAX_BYTES,
    LineReader,
    decode_reply,
    encode_request,
    encode_sync,
    is_sync_reply,
)

T = TypeVar("T")

_CHUNK_BYTES = 64 << 10
_FLOOD_MAX_BYTES = 2 * EXEC_LINE_MAX_BYTES
"""Most bytes that one call reads: the longest reply, after one that nobody waited for."""


class AgentTimeoutError(GuestAgentError):
    """No answer in time. A command that was sent may have been, or still be, carried out."""


class ChannelClosedError(GuestAgentError):
    """QEMU closed the channel. A command that was sent may have been carried out."""


class AgentSession:
    """The socket, locked and synchronised with the agent. Made by `open`; one call at a time."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._deadline = deadline
        self._lines = LineReader()
        self._is_synchronised = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, socket_path: Path, lock_path: Path, *, timeout_s: float
    ) -> AsyncGenerator[Self]:
        """Hold the agent's socket inside the block; the agent has answered.

        Args:
            socket_path: The socket of the agent's channel.
            lock_path: The lock file that all clients of this socket share.
            timeout_s: Limit for waiting, connecting and synchronising and, by default, for all
                calls inside the block together.

        Raises:
            AgentTimeoutError: another client held the socket, or no agent answered.
            GuestAgentError: there is no such socket, or nobody listens.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        lock = FileLock(lock_path)
        try:
            await _take_turn(lock, timeout_s)
            async with _bounded(deadline, "no QEMU took the guest agent's client in time"):
                sock = await _connect_socket(socket_path)
            with sock:
                session = cls(sock, deadline)
                await session.synchronise()
                yield session
        finally:
            lock.release()

    @property
    def left_s(self) -> float:
        """Seconds until the session's deadline; never negative."""
        return max(self._deadline - asyncio.get_running_loop().time(), 0.0)

    async def synchronise(self, timeout_s: float | None = None) -> None:
        """Return once the agent answers. What it sent to other clients has been discarded.

        Raises:
            AgentTimeoutError: it did not answer.
            GuestAgentError: it sends too much, or QEMU closed the channel.
        """
        sync_id = 1 + secrets.randbelow((1 << 31) - 1)
        self._is_synchronised = False
        self._lines.reset()
        async with self._until(timeout_s, "the guest agent does not answer"):
            await self._send(encode_sync(sync_id))
            budget = _Budget()
            while not is_sync_reply(await self._line(LINE_MAX_BYTES, budget), sync_id):
                self._lines.skip_to_sentinel()
        self._is_synchronised = True

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        kind: type[T],
        timeout_s: float | None = None,
        max_bytes: int | None = None,
    ) -> T:
        """Return what the agent answers to `command`, as a `kind`.

        Args:
            command: Its name, which `allowedcommands` must contain.
            arguments: Its arguments.
            kind: The type of the value, which must not be null; unknown members are ignored.
            timeout_s: Limit for the call; by default the rest of the session's time.
            max_bytes: Longest reply; by default the longest that qemu-ga sends.

        Raises:
            AgentTimeoutError: no answer in time. The next call synchronises first.
            AgentRefusedError: the agent answered with an error.
            GuestAgentError: the answer is malformed or too long, or QEMU closed the channel.
        """
        check_command(command, arguments or {})
        request = encode_request(command, arguments or {})
        if max_bytes is None:
            max_bytes = EXEC_LINE_MAX_BYTES if command == "guest-exec-status" else LINE_MAX_BYTES
        what = f"the guest agent did not answer {command}; it may still carry it out"
        async with self._until(timeout_s, what):
            if not self._is_synchronised:
                await self.synchronise()
            # If this fails from here on, a reply may be left that does not belong to the next
            # command.
            self._is_synchronised = False
            await self._send(request)
            budget = _Budget()
            value = None
            while value is None:
                value = decode_reply(await self._line(max_bytes, budget), command, kind)
        self._is_synchronised = True
        return value

    async def send(self, command: str, arguments: Mapping[str, object]) -> None:
        """Send a command that the agent does not answer when it succeeds.

        Raises:
            GuestAgentError: the command could not be sent.
        """
        check_command(command, arguments)
        if not self._is_synchronised:
            await self.synchronise()
        self._is_synchronised = False
        async with self._until(None, f"the guest agent does not take {command}"):
            await self._send(encode_request(command, arguments))

    async def refusal(self, command: str, timeout_s: float) -> GuestAgentError | None:
        """Return the error with which the agent answers `command`, sent by `send`.

        None if it sends nothing for `timeout_s`, or QEMU exits, as it does after a shutdown.
        """
        try:
            async with asyncio.timeout(timeout_s):
                decode_reply(await self._line(LINE_MAX_BYTES, _Budget()), command, object)
        except (TimeoutError, ChannelClosedError):
            return None
        except GuestAgentError as exc:
            return exc
        return None

    async def _send(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as exc:
            raise ChannelClosedError(f"cannot write to the guest agent: {exc.strerror}") from exc

    async def _line(self, max_bytes: int, budget: "_Budget") -> bytes:
        """Return the next line from the guest."""
        loop = asyncio.get_running_loop()
        while True:
            # sock_recv does not suspend while there is data. Without this, a guest that writes as
            # fast as we read would block every other task, and the deadline.
            await asyncio.sleep(0)
            line = self._lines.next_line(max_bytes)
            if line is not None:
                return line
            try:
                chunk = await loop.sock_recv(self._socket, _CHUNK_BYTES)
            except OSError as exc:
                raise ChannelClosedError(f"cannot read the guest agent: {exc.strerror}") from exc
            if not chunk:
                raise ChannelClosedError("QEMU closed the guest agent's channel")
            budget.spend(len(chunk))
            self._lines.feed(chunk)

    def _until(
        self, timeout_s: float | None, what: str
    ) -> contextlib.AbstractAsyncContextManager[None]:
        left_s = self.left_s if timeout_s is None else timeout_s
        return _bounded(asyncio.get_running_loop().time() + left_s, what)


class _Budget:
    """How many bytes a call may still read."""

    def __init__(self) -> None:
        self._left_bytes = _FLOOD_MAX_BYTES

    def spend(self, size_bytes: int) -> None:
        """Count bytes read.

        Raises:
            GuestAgentError: there are more than any reply has.
        """
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise GuestAgentError("the guest agent sends too much")


@contextlib.asynccontextmanager
async def _bounded(deadline: float, what: str) -> AsyncGenerator[None]:
    """Cancel the block at `deadline`, on the loop's clock, with an error that says `what`."""
    begin = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError as exc:
        raise AgentTimeoutError(f"{what} (waited {deadline - begin:.3g} s)") from exc


async def _take_turn(lock: FileLock, timeout_s: float) -> None:
    try:
        await lock.acquire(timeout_s)
    except LockBusyError as exc:
        raise AgentTimeoutError(
            f"another client kept the guest agent busy for {timeout_s:.3g} s"
        ) from exc
    except HostError as exc:
        raise GuestAgentError(f"cannot take a turn at the guest agent: {exc}") from exc


async def _connect_socket(path: Path) -> socket.socket:
    """Return a socket connected to `path`."""
    try:
        return await connect_unix(path)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise GuestAgentError(f"cannot reach the guest agent on {path}: {reason}") from exc
