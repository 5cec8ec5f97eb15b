"""One connection to QEMU's control socket, on which every wait is bounded.

Owns connecting, the greeting, calls and their deadlines, the delivery of events in order, and an
end that leaves no task or descriptor behind. Does not own what commands (`commands`) and events
(`events`) mean. The protocol itself is qemu.qmp's.

    QmpError                  the socket gave no usable answer
    ├── QmpRefusedError       QEMU answered with an error: the command was not carried out
    ├── QmpClosedError        the connection is gone; what was asked may have been carried out
    └── QmpTimeoutError       no answer in time; what was asked may still be carried out

Cancelling a call is like a timeout: QEMU does not know of it, so query afterwards, don't guess.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPClient, Runstate
from qemu.qmp.error import QMPError
from qemu.qmp.message import Message
from qemu.qmp.protocol import StateError
from qemu.qmp.qmp_client import GreetingError, NegotiationError

from qemu_node.errors import QmpError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.sockets import connect_unix
from qemu_node.qmp.events import QmpEvent, parse_message
from qemu_node.text import printable

log = logging.getLogger(__name__)

# The library logs every failed connection as an error, with all that the peer sent; it is raised
# here instead, bounded.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

LINE_MAX_BYTES = 1 << 20
"""Longest message accepted. The longest reply to a command of ours is a few hundred bytes."""


class QmpRefusedError(QmpError):
    """QEMU answered with an error; the command was not carried out."""

    def __init__(self, command: str, description: str, error_class: str) -> None:
        super().__init__(f"QEMU refused {command}: {printable(description)}")
        self.command = command
        self.error_class = error_class


class QmpClosedError(QmpError):
    """The connection is gone; a command that was under way may have been carried out."""


class QmpTimeoutError(QmpError):
    """QEMU did not answer in time; a command may have been carried out, or still be.

    The connection stays usable: a late answer is told from the next one by its id.
    """


class _Client(QMPClient):
    """The library's client, without what costs memory or time per message."""

    def __init__(self, on_event: Callable[[Message], None]) -> None:
        super().__init__(readbuflen=LINE_MAX_BYTES)
        self._on_event = on_event
        # The built-in listener keeps every event for ever. A filter that takes none sees them all,
        # in order.
        self.events.event_filter = self._take_event

    def _take_event(self, message: Message) -> bool:
        self._on_event(message)
        return False

    async def _readline(self) -> bytes:
        # Reading does not suspend while lines are buffered, up to 2 MiB of them: a QEMU that sends
        # as fast as we read would keep every other task waiting for so long.
        await asyncio.sleep(0)
        return await super()._readline()

    # Hooks for subclasses. The library's own pretty-print each message, to be logged or not.

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg


class QmpConnection:
    """A live connection: made by `connect`, ended by `close` or by leaving `async with`.

    QEMU serves one client per socket. Calls may overlap; QEMU carries them out in order.
    """

    def __init__(self, path: Path, on_event: Callable[[QmpEvent], None] | None) -> None:
        self._path = path
        self._on_event = on_event
        self._client = _Client(self._deliver)
        self._socket: socket.socket | None = None
        self._fd_lock = asyncio.Lock()
        self._close_lock = asyncio.Lock()

    @classmethod
    async def connect(
        cls,
        path: Path,
        *,
        timeout_s: float = 10.0,
        on_event: Callable[[QmpEvent], None] | None = None,
    ) -> Self:
        """Return a connection on which QEMU has greeted and takes commands.

        Args:
            path: The socket.
            timeout_s: For all of it. QEMU's chardev lets a second client connect but greets it only
                when the first has gone.
            on_event: Called with each event, in order, from the reader: it must not block.

        Raises:
            QmpTimeoutError: nobody greeted in time.
            QmpError: there is no such socket, nobody listens, or what it says is not QMP.
        """
        connection = cls(path, on_event)
        try:
            async with asyncio.timeout(timeout_s):
                connection._socket = await connect_unix(path)
                await connection._client.connect(connection._socket)
        except Exception as exc:
            connection._abandon()
            raise _connect_error(path, exc, timeout_s) from exc
        except BaseException:
            connection._abandon()
            raise
        return connection

    def listen(self, on_event: Callable[[QmpEvent], None]) -> None:
        """Have each further event delivered to `on_event`, in order; it must not block."""
        self._on_event = on_event

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._client.runstate is Runstate.RUNNING

    async def wait_closed(self) -> None:
        """Return once the connection is gone, whoever ended it. Cancelling is harmless."""
        while self.is_open:
            await self._client.runstate_changed()

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float = 5.0,
        fds: Sequence[int] = (),
    ) -> Any:
        """Return what QEMU answers to `command`.

        Args:
            command: Its QMP name.
            arguments: What it takes.
            timeout_s: For the answer, and for other calls with descriptors to finish first.
            fds: Descriptors handed over with it, for `add-fd`; they stay the caller's to close.

        Raises:
            QmpRefusedError: QEMU answered with an error.
            QmpClosedError: the connection is gone, before (nothing was sent) or meanwhile.
            QmpTimeoutError: no answer in time.
            QmpError: the answer is malformed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if not fds:
                    return await self._client.execute(command, arguments)
                # QEMU keeps only the descriptors that came last until a command takes them.
                async with self._fd_lock:
                    self._send_fds(fds)
                    return await self._client.execute(command, arguments)
        except TimeoutError as exc:
            raise QmpTimeoutError(
                f"QEMU did not answer {command} within {timeout_s:g} s; it may still carry it out"
            ) from exc
        except ExecuteError as exc:
            raise QmpRefusedError(command, str(exc), printable(exc.error_class)) from exc
        except ExecInterruptedError as exc:
            raise QmpClosedError(
                f"QEMU closed the control connection during {command}; it may have carried it out"
            ) from exc
        except StateError as exc:
            raise QmpClosedError(
                f"the control connection to QEMU is closed; {command} was not sent"
            ) from exc
        except QMPError as exc:
            raise QmpError(f"QEMU's answer to {command} is malformed: {_summary(exc)}") from exc

    def _send_fds(self, fds: Sequence[int]) -> None:
        if not self.is_open or self._socket is None:
            raise StateError("not connected", self._client.runstate, Runstate.RUNNING)
        try:
            # Descriptors need some byte to ride on; QMP's parser skips white space.
            socket.send_fds(self._socket, [b" "], list(fds))
        except OSError as exc:
            raise QmpError(f"cannot hand a descriptor to QEMU: {exc.strerror}") from exc

    async def close(self) -> None:
        """End the connection; QEMU goes on. Idempotent; returns, also cancelled, when done."""
        async with self._close_lock:
            if self._client.runstate is Runstate.IDLE:
                return
            self._abandon()
            # It raises what ended the connection; whoever had a call under way was told.
            with contextlib.suppress(Exception):
                # A few turns of the loop; cut short, it would leave futures behind whose exceptions
                # nobody fetches, and asyncio logs each with its traceback.
                await finish(self._client.disconnect())

    def _abandon(self) -> None:
        """Make every task of the library end by itself, soon."""
        if self._socket is None:
            return
        # A QEMU that no longer reads would make the library's farewell wait for ever in its flush;
        # after this it fails at once.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._client.runstate is Runstate.IDLE:
            # Never handed over to the library, or given back by it.
            self._socket.close()
            self._socket = None

    def _deliver(self, message: Message) -> None:
        if self._on_event is None:
            return
        event = parse_message(message)
        if event is None:
            log.warning("malformed QMP event", extra={"path": str(self._path)})
            return
        try:
            self._on_event(event)
        except Exception:
            # It would end the reader and with it the connection.
            log.exception("event handler failed", extra={"event": event.name})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _connect_error(path: Path, exc: Exception, timeout_s: float) -> QmpError:
    """Return what to raise for a connection that was not made."""
    cause = exc.exc if isinstance(exc, ConnectError) else exc
    if isinstance(cause, TimeoutError):
        return QmpTimeoutError(
            f"QEMU did not greet on {path} within {timeout_s:g} s",
            hint="another client may hold the socket, or QEMU hangs",
        )
    if isinstance(cause, EOFError):
        said = "closed before QEMU was ready for commands"
    elif isinstance(cause, GreetingError | NegotiationError):
        said = f"{cause.error_message}: {_summary(cause.exc)}"
    else:
        said = _summary(cause)
    return QmpError(f"no QMP on {path}: {said}")


def _summary(exc: BaseException) -> str:
    """Return one bounded line for `exc`, which may quote its whole peer."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    lines = str(exc).splitlines()
    return printable(lines[0]) if lines else type(exc).__name__
