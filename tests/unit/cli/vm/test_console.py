import asyncio
import os
import pty
import socket
import termios
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from qemu_node.cli.vm import console as console_module
from qemu_node.cli.vm.console import (
    ConsoleError,
    open_console,
    raw_terminal,
    split_at_escape,
)
from qemu_node.host.process.identity import identify
from qemu_node.host.sockets import listen_unix
from qemu_node.vm.record.record import VMRecord

TIMEOUT_S = 60.0


async def attach(path: Path, *, input_fd: int | None, output_fd: int) -> bool:
    """Join the serial port at `path` with a terminal; True once the operator left."""
    with await console_module._connect(path) as sock:
        return await console_module._run(sock, input_fd=input_fd, output_fd=output_fd)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: the end of whoever sits there, and the one a program has."""
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("data", "typed", "leaves"),
    [
        (b"ls\r", b"ls\r", False),
        (b"\x03\x1a\x04", b"\x03\x1a\x04", False),
        (b"\x1d", b"", True),
        (b"abc\x1ddef", b"abc", True),
        (b"\x1b[A", b"\x1b[A", False),
    ],
)
def test_only_the_escape_key_leaves(data: bytes, typed: bytes, leaves: bool) -> None:
    assert split_at_escape(data) == (typed, leaves)


def test_the_terminal_is_restored_after_an_error(terminal: tuple[int, int]) -> None:
    _, slave = terminal
    before = termios.tcgetattr(slave)

    def fail() -> None:
        with raw_terminal(slave):
            assert termios.tcgetattr(slave) != before
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert termios.tcgetattr(slave) == before


async def _guest(path: Path) -> tuple[socket.socket, "asyncio.Task[socket.socket]"]:
    """Listen as QEMU does, and return a task that gives the console's connection."""
    server = socket.socket(fileno=listen_unix(path))
    server.setblocking(False)
    loop = asyncio.get_running_loop()

    async def accept() -> socket.socket:
        return (await loop.sock_accept(server))[0]

    return server, asyncio.ensure_future(accept())


async def _read_until(fd: int, text: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(TIMEOUT_S):
        while text not in seen:
            seen += await asyncio.to_thread(os.read, fd, 1024)
    return seen


async def test_keys_reach_the_guest_and_its_words_the_terminal(
    tmp_path: Path, terminal: tuple[int, int]
) -> None:
    master, slave = terminal
    before = termios.tcgetattr(slave)
    server, accepted = await _guest(tmp_path / "s")
    console = asyncio.ensure_future(attach(tmp_path / "s", input_fd=slave, output_fd=slave))
    guest = await accepted
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT_S):
        await loop.sock_sendall(guest, b"login\x1b]52;c;x\x07: ")
        assert await _read_until(master, b": ") == b"login: "
        os.write(master, b"root\r\x03")
        typed = b""
        while len(typed) < 6:
            typed += await loop.sock_recv(guest, 100)
        assert typed == b"root\r\x03"
        os.write(master, b"\x1d")
        assert await console is True
    assert termios.tcgetattr(slave) == before
    assert b"\x1b[!p" in await _read_until(master, b"2004l")
    guest.close()
    server.close()


async def test_the_end_of_the_vm_ends_the_console(
    tmp_path: Path, terminal: tuple[int, int]
) -> None:
    _, slave = terminal
    server, accepted = await _guest(tmp_path / "s")
    console = asyncio.ensure_future(attach(tmp_path / "s", input_fd=slave, output_fd=slave))
    (await accepted).close()
    async with asyncio.timeout(TIMEOUT_S):
        assert await console is False
    server.close()


async def test_a_guest_that_takes_no_input_does_not_keep_the_operator(
    tmp_path: Path, terminal: tuple[int, int]
) -> None:
    master, slave = terminal
    server, accepted = await _guest(tmp_path / "s")
    console = asyncio.ensure_future(attach(tmp_path / "s", input_fd=slave, output_fd=slave))
    guest = await accepted
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            # Until the console complains that the guest takes nothing.
            await asyncio.to_thread(os.write, master, b"x" * 2000)
            os.set_blocking(master, False)
            try:
                if b"\a" in os.read(master, 1024):
                    break
            except BlockingIOError:
                await asyncio.sleep(0)
            finally:
                os.set_blocking(master, True)
        os.write(master, b"\x1d")
        assert await console is True
    guest.close()
    server.close()


async def test_looking_on_needs_no_terminal(tmp_path: Path) -> None:
    server, accepted = await _guest(tmp_path / "s")
    read_fd, write_fd = os.pipe()
    console = asyncio.ensure_future(attach(tmp_path / "s", input_fd=None, output_fd=write_fd))
    guest = await accepted
    await asyncio.get_running_loop().sock_sendall(guest, b"booting\r\n")
    assert await _read_until(read_fd, b"\n") == b"booting\r\n"
    guest.close()
    async with asyncio.timeout(TIMEOUT_S):
        assert await console is False
    os.close(read_fd)
    os.close(write_fd)
    server.close()


async def test_a_vm_without_a_console_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConsoleError, match="No such file"):
        await attach(tmp_path / "absent", input_fd=None, output_fd=1)


class Shared:
    """A VM's port as QEMU serves it, and as the daemon shares it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.port, self.daemon = root / "s", root / "d"
        self.said: list[str] = []
        self.is_taken = False
        own = identify(os.getpid())
        self.record = cast(
            "VMRecord",
            SimpleNamespace(
                vm_id="web-0123456789ab",
                display_name="web",
                process=own,
                sockets=SimpleNamespace(serial=str(self.port)),
            ),
        )

        async def is_taken(_record: object) -> bool:
            return self.is_taken

        monkeypatch.setattr(console_module, "is_taken", is_taken)

    def open(self, output_fd: int) -> "asyncio.Task[bool]":
        return asyncio.ensure_future(
            open_console(
                self.record, [self.daemon], input_fd=None, output_fd=output_fd, say=self.said.append
            )
        )


@pytest.fixture
def shared(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shared:
    return Shared(short_tmp_path, monkeypatch)


async def _share(client: socket.socket, answer: bytes) -> bytes:
    """Answer a console as the daemon does; return what it asked for."""
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    asked = await loop.sock_recv(client, 100)
    await loop.sock_sendall(client, answer)
    return asked


async def test_the_daemon_is_asked_first_and_its_death_ends_no_console(
    shared: Shared, terminal: tuple[int, int]
) -> None:
    master, slave = terminal
    daemon, joined = await _guest(shared.daemon)
    qemu, direct = await _guest(shared.port)
    async with asyncio.timeout(TIMEOUT_S):
        console = shared.open(slave)
        client = await joined
        assert await _share(client, b"open\nby the daemon") == b"view\n"
        assert await _read_until(master, b"by the daemon")
        daemon.close()
        client.close()
        guest = await direct
        await asyncio.get_running_loop().sock_sendall(guest, b"by QEMU")
        assert await _read_until(master, b"by QEMU")
        assert "has ended; this console goes on" in shared.said[-1]
        guest.close()
        assert await console is False
    qemu.close()


@pytest.mark.parametrize("answer", [b"lost\n", b"opening\n", b"", b"x" * 100])
async def test_a_daemon_that_does_not_share_is_passed_over(
    shared: Shared, terminal: tuple[int, int], answer: bytes
) -> None:
    master, slave = terminal
    daemon, joined = await _guest(shared.daemon)
    qemu, direct = await _guest(shared.port)
    async with asyncio.timeout(TIMEOUT_S):
        console = shared.open(slave)
        client = await joined
        _ = await _share(client, answer)
        client.close()
        guest = await direct
        await asyncio.get_running_loop().sock_sendall(guest, b"by QEMU")
        assert await _read_until(master, b"by QEMU")
        guest.close()
        assert await console is False
    daemon.close()
    qemu.close()


async def test_a_console_that_was_too_slow_is_told_and_goes_on(
    shared: Shared, terminal: tuple[int, int]
) -> None:
    _, slave = terminal
    daemon, joined = await _guest(shared.daemon)
    async with asyncio.timeout(TIMEOUT_S):
        console = shared.open(slave)
        client = await joined
        _ = await _share(client, b"open\n")
        client.close()
        client, _ = await asyncio.get_running_loop().sock_accept(daemon)
        _ = await _share(client, b"open\n")
        while "did not keep up" not in shared.said[-1]:
            await asyncio.sleep(0)
        daemon.close()
        client.close()
        # Nobody serves the port any more: the VM has ended.
        assert await console is False


async def test_without_a_daemon_a_port_that_is_taken_is_an_error(
    shared: Shared, terminal: tuple[int, int]
) -> None:
    shared.is_taken = True
    with pytest.raises(ConsoleError, match="somebody else has the console"):
        await shared.open(terminal[1])
