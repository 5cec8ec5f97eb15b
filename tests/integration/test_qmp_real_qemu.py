"""The QMP client against a real QEMU whose CPUs do not run."""

import asyncio
import os
import signal
import struct
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from qemu_node.errors import QmpError
from qemu_node.host.process.command import Child, spawn
from qemu_node.host.process.pidfd import send_signal
from qemu_node.host.sockets import listen_unix
from qemu_node.qemu.cmdline import ACTIONS
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent, RunState, Shutdown, typed
from qemu_node.vm.record.outcome import guest_end_of_event

pytestmark = pytest.mark.needs_qemu

TIMEOUT_S = 60.0

# fmt: off
ARGV = [
    "qemu-system-x86_64", "-S", "-nodefaults", "-no-user-config", "-display", "none",
    "-machine", "q35,accel=tcg", "-m", "32", "-vga", "std",
    "-action", ACTIONS,
    "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
]
# fmt: on


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp.sock"


@pytest.fixture
async def qemu(path: Path, tmp_path: Path) -> AsyncGenerator[Child]:
    stderr_fd = os.open(tmp_path / "stderr", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    listener = listen_unix(path)
    # fmt: off
    argv = [
        *ARGV, "-chardev", f"socket,id=qmp,fd={listener},server=on,wait=off",
        "-mon", "chardev=qmp,mode=control",
    ]
    # fmt: on
    try:
        child = spawn(argv, stderr_fd=stderr_fd, pass_fds=[listener])
    finally:
        os.close(listener)
        os.close(stderr_fd)
    yield child
    send_signal(child.process, signal.SIGCONT)
    send_signal(child.process, signal.SIGKILL)
    await exit_status(child)


async def exit_status(child: Child) -> int:
    async with asyncio.timeout(TIMEOUT_S):
        while (status := child.exit_status()) is None:
            await asyncio.sleep(0.02)
    return status


async def test_status_version_and_refusal(qemu: Child, path: Path) -> None:
    async with await QmpConnection.connect(path, timeout_s=TIMEOUT_S) as connection:
        status = await commands.query_status(connection, timeout_s=TIMEOUT_S)
        assert (status.status, status.running) == (RunState.PRELAUNCH, False)
        assert (await commands.query_version(connection)).major >= 7
        with pytest.raises(QmpError, match="has not been found"):
            await connection.execute("no-such-command", timeout_s=TIMEOUT_S)


async def test_screenshots_are_pngs_even_at_once_and_leave_no_descriptor(
    qemu: Child, path: Path
) -> None:
    async with await QmpConnection.connect(path, timeout_s=TIMEOUT_S) as connection:
        # QEMU before 9.1 forgets removed descriptors only while the guest runs.
        await commands.cont(connection)
        pictures = await asyncio.gather(*[commands.screendump_png(connection) for _ in range(3)])
        for picture in pictures:
            width, height = struct.unpack(">II", picture[16:24])
            assert width > 100
            assert height > 100
        assert await connection.execute("query-fdsets", timeout_s=TIMEOUT_S) == []


async def test_quit_is_answered_announced_and_obeyed(qemu: Child, path: Path) -> None:
    seen: list[QmpEvent] = []
    async with await QmpConnection.connect(
        path, timeout_s=TIMEOUT_S, on_event=seen.append
    ) as connection:
        await commands.quit(connection)
        async with asyncio.timeout(TIMEOUT_S):
            await connection.wait_closed()
    assert typed(seen[-1]) == Shutdown(guest=False, reason="host-qmp-quit")
    assert guest_end_of_event(seen[-1]) is None
    assert await exit_status(qemu) == 0


async def test_sigterm_is_announced_as_an_end_from_outside(qemu: Child, path: Path) -> None:
    seen: list[QmpEvent] = []
    async with await QmpConnection.connect(
        path, timeout_s=TIMEOUT_S, on_event=seen.append
    ) as connection:
        send_signal(qemu.process, signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT_S):
            await connection.wait_closed()
    assert typed(seen[-1]) == Shutdown(guest=False, reason="host-signal")
    assert guest_end_of_event(seen[-1]) is None


async def test_stopped_qemu_is_a_timeout_and_answers_when_it_goes_on(
    qemu: Child, path: Path
) -> None:
    async with await QmpConnection.connect(path, timeout_s=TIMEOUT_S) as connection:
        send_signal(qemu.process, signal.SIGSTOP)
        with pytest.raises(QmpError, match="did not answer"):
            await commands.query_status(connection, timeout_s=0.3)
        send_signal(qemu.process, signal.SIGCONT)
        status = await commands.query_status(connection, timeout_s=TIMEOUT_S)
        assert status.status is RunState.PRELAUNCH


async def test_next_client_is_served_when_the_first_has_closed(qemu: Child, path: Path) -> None:
    for _ in range(3):
        async with await QmpConnection.connect(path, timeout_s=TIMEOUT_S) as connection:
            await commands.query_status(connection, timeout_s=TIMEOUT_S)
