"""The operator's terminal on a guest's serial port.

Owns the terminal for as long as the console is open, and gives it back as it was, whatever ends it.
Does not own the guest's log, which goes on beside it, nor cleaning what the guest prints
(`consolefilter`).

QEMU serves one client of the port at a time. The next one can connect, but gets no data until the
first has disconnected, and nothing on the socket says that it waits. A web console, if one runs,
shares the port with browsers and other consoles (`inventory.serialport`). Without it QEMU's port is
used, and a daemon that dies meanwhile ends no console.
"""

import asyncio
import contextlib
import os
import signal
import socket
import termios
import tty
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from qemu_node.cli.vm.consolefilter import ConsoleFilter
from qemu_node.errors import AS_ROOT_OR_GROUP, MissingPartError, NodeError, QmpError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.files.atomic import write_all
from qemu_node.host.process.identity import is_alive
from qemu_node.host.sockets import connect_unix
from qemu_node.inventory.access import connect_monitor
from qemu_node.inventory.serialport import Join, join_any
from qemu_node.qmp.commands import is_serial_taken
from qemu_node.text import clean
from qemu_node.vm.record.record import VMRecord

ESCAPE = b"\x1d"
"""Ctrl-], the key that leaves the console, as in telnet and virsh."""

_CHUNK_BYTES = 16 << 10
_CONNECT_TIMEOUT_S = 5.0
_PENDING_MAX_BYTES = 64 << 10
"""Input that a guest has not taken yet; what is typed beyond that is dropped with a bell."""

# Switches off what a guest may have switched on and would disturb the shell: DECSTR (cursor,
# colours, keypad), the alternate screen, mouse reports, focus reports, bracketed paste. 1047 and
# not 1049, which would move the cursor as well.
_RESET = b"\x1b[!p\x1b[?1047l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l"
_ENDING_SIGNALS = (signal.SIGHUP, signal.SIGTERM)


class ConsoleError(NodeError):
    """The console cannot be opened, or was lost."""


class _NoPortError(ConsoleError):
    """Nobody serves the port: its VM has ended."""


def split_at_escape(data: bytes) -> tuple[bytes, bool]:
    """Return what of `data` is for the guest, and whether the operator wants to leave: pure."""
    typed, escape, _ = data.partition(ESCAPE)
    return typed, bool(escape)


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Let every key of the terminal `fd` through inside the block; restore it afterwards."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSAFLUSH)
        yield
    finally:
        # Not TCSAFLUSH: keys typed after Ctrl-] belong to the shell.
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Console:
    """One connection between a guest's serial port and a terminal."""

    def __init__(self, sock: socket.socket, *, input_fd: int | None, output_fd: int) -> None:
        """Join the connected `sock` with the two descriptors, which stay the caller's."""
        self._socket = sock
        self._input_fd = input_fd
        self._output_fd = output_fd
        self._filter = ConsoleFilter()
        self._pending = bytearray()
        self._has_input = asyncio.Event()
        self._is_left = asyncio.Event()

    async def run(self) -> bool:
        """Pass bytes both ways; True once the operator left, False when the VM's end closed it.

        Raises:
            ConsoleError: the connection broke.
        """
        with self._watched_input(), self._watched_signals():
            winner, _ = await race(self._left(), self._show(), self._send())
        return winner == 0

    async def _left(self) -> None:
        await self._is_left.wait()

    async def _show(self) -> None:
        """Write what the guest prints, until its QEMU is gone."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._socket, _CHUNK_BYTES)
            except ConnectionResetError:
                return
            except OSError as exc:
                raise ConsoleError(f"the console was lost: {exc.strerror}") from exc
            if not data:
                return
            if shown := self._filter.feed(data):
                # In a thread: a terminal that is stopped must not keep Ctrl-] from being read.
                await asyncio.to_thread(write_all, self._output_fd, shown)

    async def _send(self) -> None:
        """Write what the operator types, as fast as the guest takes it."""
        loop = asyncio.get_running_loop()
        while True:
            await self._has_input.wait()
            self._has_input.clear()
            data = bytes(self._pending)
            self._pending.clear()
            try:
                await loop.sock_sendall(self._socket, data)
            except (BrokenPipeError, ConnectionResetError):
                # The reader sees the same end and says so once everything has been shown.
                await asyncio.Event().wait()

    @contextlib.contextmanager
    def _watched_input(self) -> Generator[None]:
        if self._input_fd is None:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._input_fd, self._read_input, self._input_fd)
        try:
            yield
        finally:
            loop.remove_reader(self._input_fd)

    def _read_input(self, fd: int) -> None:
        """Take what was typed. The descriptor blocks as the shell left it, but is readable now."""
        try:
            data = os.read(fd, _CHUNK_BYTES)
        except OSError:
            data = b""
        if not data:
            # The terminal is gone.
            self._is_left.set()
            return
        typed, is_leaving = split_at_escape(data)
        if len(self._pending) + len(typed) > _PENDING_MAX_BYTES:
            with contextlib.suppress(OSError):
                os.write(self._output_fd, b"\a")
        else:
            self._pending += typed
            self._has_input.set()
        if is_leaving:
            self._is_left.set()

    @contextlib.contextmanager
    def _watched_signals(self) -> Generator[None]:
        """Leave the console at a signal that ends the program, so that the terminal is restored."""
        loop = asyncio.get_running_loop()
        # Without input Ctrl-C leaves the console; with input the key goes to the guest.
        signals = (*_ENDING_SIGNALS, *((signal.SIGINT,) if self._input_fd is None else ()))
        for signum in signals:
            loop.add_signal_handler(signum, self._is_left.set)
        try:
            yield
        finally:
            for signum in signals:
                loop.remove_signal_handler(signum)


async def open_console(
    record: VMRecord,
    shared: Collection[Path],
    *,
    input_fd: int | None,
    output_fd: int,
    say: Callable[[str], object],
) -> bool:
    """Join a VM's serial port with a terminal; True once the operator left, False: the VM ended.

    Args:
        record: Of the VM.
        shared: Where a web console may share the port; no socket need be there.
        input_fd: A terminal, which is raw meanwhile; None only looks on.
        output_fd: Where the guest's words go.
        say: Prints a line for the operator.

    Raises:
        ConsoleError: somebody has the port and does not share it; or the connection broke.
        MissingPartError: this user may not open it.
    """
    joined = await _join(record, shared, is_viewer=input_fd is None)
    leave = "Ctrl-C" if input_fd is None else "Ctrl-]"
    say(f"console of {clean(record.display_name)}; {leave} leaves, Enter wakes a login")
    while True:
        with joined.sock as sock:
            has_left = await _run(sock, input_fd=input_fd, output_fd=output_fd)
        if has_left or not joined.is_shared or not is_alive(record.process):
            return has_left
        try:
            joined = await _join(record, shared, is_viewer=input_fd is None)
        except _NoPortError:
            return False
        if joined.is_shared:
            say("\nthis terminal did not keep up: output is missing here, the log has it")
        else:
            say("\nthe daemon of the web console has ended; this console goes on without it")


@dataclass(frozen=True, slots=True)
class _Joined:
    """A connection to a serial port."""

    sock: socket.socket
    is_shared: bool
    """By a web console."""


async def _join(record: VMRecord, shared: Collection[Path], *, is_viewer: bool) -> _Joined:
    """Connect to a web console, or else to QEMU."""
    how = Join.VIEW if is_viewer else Join.CONTROL
    if (sock := await join_any(shared, how, timeout_s=_CONNECT_TIMEOUT_S)) is not None:
        return _Joined(sock, is_shared=True)
    if await is_taken(record):
        raise ConsoleError(
            f"somebody else has the console of {record.vm_id}",
            hint=f"`qemu-node vm logs -f {record.vm_id}` shows what it prints",
        )
    return _Joined(await _connect(Path(record.sockets.serial)), is_shared=False)


async def _run(sock: socket.socket, *, input_fd: int | None, output_fd: int) -> bool:
    """Join the connected `sock` with a terminal; True once the operator left."""
    console = Console(sock, input_fd=input_fd, output_fd=output_fd)
    if input_fd is None:
        return await console.run()
    with raw_terminal(input_fd):
        try:
            return await console.run()
        finally:
            with contextlib.suppress(OSError):
                write_all(output_fd, _RESET)


async def _connect(path: Path) -> socket.socket:
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            return await connect_unix(path)
    except TimeoutError:
        raise ConsoleError(
            f"{path} takes no more clients", hint="others wait for this console already"
        ) from None
    except PermissionError as exc:
        raise MissingPartError(f"{path} may not be opened", hint=AS_ROOT_OR_GROUP) from exc
    except OSError as exc:
        raise _NoPortError(f"cannot open the console {path}: {exc.strerror}") from exc


async def is_taken(record: VMRecord, *, timeout_s: float = 2.0) -> bool | None:
    """Tell whether somebody has the console already; None where QEMU does not say in time."""
    try:
        async with await connect_monitor(record, timeout_s=timeout_s) as qmp:
            return await is_serial_taken(qmp, timeout_s=timeout_s)
    except QmpError:
        return None
