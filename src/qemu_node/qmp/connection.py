"""One connection to QEMU's control socket, with a limit on every wait.

Owns connecting, the greeting, calls and their deadlines, delivering events in order, and closing
without leaving a task or descriptor behind. Does not own what commands (`commands`) and events
(`events`) mean, nor the protocol itself (`wire`).

    QmpError                  the socket gave no usable answer
    ├── QmpRefusedError       QEMU answered with an error: the command was not carried out
    ├── QmpClosedError        the connection is gone; the command may have been carried out
    └── QmpTimeoutError       no answer in time; the command may still be carried out

Cancelling a call is like a timeout: QEMU does not notice it. Query the state afterwards.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from qemu_node.errors import QmpError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.sockets import connect_unix
from qemu_node.qmp.events import QmpEvent, parse_message
from qemu_node.qmp.wire import EventMessage, Lost, QmpProtocol, Refused
from qemu_node.text import printable

log = logging.getLogger(__name__)


class QmpRefusedError(QmpError):
    """QEMU answered with an error; the command was not carried out."""

    def __init__(self, command: str, description: str, error_class: str) -> None:
        super().__init__(f"QEMU refused {command}: {printable(description)}")
        self.command = command
        self.error_class = error_class


class QmpClosedError(QmpError):
    """The connection is gone; a command in progress may have been carried out."""


class QmpTimeoutError(QmpError):
    """QEMU did not answer in time; the command may have been, or still be, carried out.

    The connection can still be used: a late answer is recognized by its id.
    """


class QmpConnection:
    """An open connection: made by `connect`, closed by `close` or at the end of `async with`.

    QEMU serves one client on each socket. Calls may overlap; QEMU handles them in order.
    """

    def __init__(self, path: Path, on_event: Callable[[QmpEvent], None] | None) -> None:
        self._path = path
        self._on_event = on_event
        self._protocol = QmpProtocol(self._deliver)
        self._socket: socket.socket | None = None
        self._fd_lock = asyncio.Lock()
        self._has_complained = False

    @classmethod
    async def connect(
        cls,
        path: Path,
        *,
        timeout_s: float = 10.0,
        on_event: Callable[[QmpEvent], None] | None = None,
    ) -> Self:
        """Return a connection on which QEMU has sent its greeting and accepts commands.

        Args:
            path: The socket.
            timeout_s: Limit for the whole call. QEMU accepts a second client but greets it only
                when the first has closed its connection.
            on_event: Called with each event, in order. It must not block.

        Raises:
            QmpTimeoutError: there was no greeting in time.
            QmpError: there is no such socket, nobody listens, or the peer does not speak QMP.
        """
        connection = cls(path, on_event)
        try:
            async with asyncio.timeout(timeout_s):
                await connection._open()
        except BaseException as exc:
            connection._protocol.abort()
            if isinstance(exc, Exception):
                raise _connect_error(path, exc, timeout_s) from exc
            raise
        return connection

    async def _open(self) -> None:
        self._socket = await connect_unix(self._path)
        try:
            await asyncio.get_running_loop().create_unix_connection(
                lambda: self._protocol, sock=self._socket
            )
        except BaseException:
            self._socket.close()
            raise
        await self._protocol.ready

    def listen(self, on_event: Callable[[QmpEvent], None]) -> None:
        """Deliver further events to `on_event`, in order. It must not block."""
        self._on_event = on_event

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._protocol.is_open

    def on_closed(self, call: Callable[[], object]) -> None:
        """Call `call` once the connection has been closed by either side; soon if it is closed."""
        self._protocol.closed.add_done_callback(lambda _: call())

    async def wait_closed(self) -> None:
        """Wait until the connection is closed by either side. Cancelling is harmless."""
        await asyncio.shield(self._protocol.closed)

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
            timeout_s: Limit for the answer, and for earlier calls with descriptors.
            fds: Descriptors to pass, for `add-fd`. The caller closes them.

        Raises:
            QmpRefusedError: QEMU answered with an error.
            QmpClosedError: the connection was closed before (nothing was sent) or during the call.
            QmpTimeoutError: no answer in time.
            QmpError: the answer is malformed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if not fds:
                    return await self._call(command, arguments)
                # QEMU keeps only the descriptors that were sent last, until a command takes them.
                async with self._fd_lock:
                    self._send_fds(command, fds)
                    return await self._call(command, arguments)
        except TimeoutError as exc:
            raise QmpTimeoutError(
                f"QEMU did not answer {command} within {timeout_s:g} s; it may still carry it out"
            ) from exc
        except Refused as exc:
            raise QmpRefusedError(command, str(exc), printable(exc.error_class)) from exc
        except Lost as exc:
            if exc.reason is not None:
                said = printable(exc.reason)
                raise QmpError(f"QEMU's answer to {command} is malformed: {said}") from exc
            raise QmpClosedError(
                f"QEMU closed the control connection during {command}; it may have carried it out"
            ) from exc

    def _call(self, command: str, arguments: Mapping[str, object] | None) -> "asyncio.Future[Any]":
        self._require_open(command)
        return self._protocol.call(command, arguments)

    def _require_open(self, command: str) -> None:
        if not self.is_open:
            raise QmpClosedError(
                f"the control connection to QEMU is closed; {command} was not sent"
            )

    def _send_fds(self, command: str, fds: Sequence[int]) -> None:
        self._require_open(command)
        assert self._socket is not None
        try:
            # Descriptors must be sent with at least one byte; QMP's parser skips white space.
            socket.send_fds(self._socket, [b" "], list(fds))
        except OSError as exc:
            raise QmpError(f"cannot hand a descriptor to QEMU: {exc.strerror}") from exc

    async def close(self) -> None:
        """Close the connection; QEMU goes on. Idempotent. A cancellation waits for the end."""
        self._protocol.abort()
        await finish(self._protocol.closed)

    def _deliver(self, message: EventMessage) -> None:
        if self._on_event is None:
            return
        event = parse_message(message)
        if event is None:
            # Once: who sends one on purpose sends many.
            if not self._has_complained:
                log.warning("malformed QMP event", extra={"path": str(self._path)})
            self._has_complained = True
            return
        try:
            self._on_event(event)
        except Exception:
            # An exception would end the reader and with it the connection.
            log.exception("event handler failed", extra={"event": event.name})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()


def _connect_error(path: Path, exc: Exception, timeout_s: float) -> QmpError:
    """Return the error for a failed connection."""
    match exc:
        case TimeoutError():
            return QmpTimeoutError(
                f"QEMU did not greet on {path} within {timeout_s:g} s",
                hint="another client may hold the socket, or QEMU hangs",
            )
        case Lost(reason=None):
            said = "closed before QEMU was ready for commands"
        case Lost(reason=str(reason)):
            said = reason
        case Refused():
            said = f"QEMU refused the negotiation: {exc}"
        case OSError(strerror=str(reason)):
            said = reason
        case _:
            said = f"{type(exc).__name__}: {exc}"
    return QmpError(f"no QMP on {path}: {printable(said)}")
