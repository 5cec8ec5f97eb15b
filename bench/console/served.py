"""The programs that the console's bench starts: the daemon, and VMs without a QEMU.

Owns their processes and settings. Does not own what is asked of them.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.rig.node import BenchNode
from qemu_node.host.process import command, pidfd
from qemu_node.host.process.command import Child

_UP_S = 60.0
_POLL_S = 0.05
_END_S = 20.0


def free_port() -> int:
    """Return a port of loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def program(
    argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
) -> AsyncGenerator[Child]:
    """Run a program for the block; its words are in `log`, its stdin ends with the block."""
    reading, writing = os.pipe()
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    paths = {**command.SAFE_ENV, "PYTHONPATH": ":".join(sys.path)}
    try:
        child = command.spawn(
            argv, stdin_fd=reading, stderr_fd=log_fd, env={**paths, **(env or {})}
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
        os.close(log_fd)
    try:
        yield child
    finally:
        os.close(writing)
        await _end(child)


async def _end(child: Child) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                pidfd.send_signal(child.process, number)
                await pidfd.wait_gone(child.process)
                break
    child.exit_status()


def _words(log: Path) -> str:
    return log.read_text(errors="replace")


async def line_of(child: Child, log: Path) -> str:
    """Return the first line that a program prints.

    Raises:
        OSError: it ended instead, or says nothing.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_UP_S):
            while child.exit_status() is None:
                if "\n" in (text := _words(log)):
                    return text.split("\n")[0]
                await asyncio.sleep(_POLL_S)
    raise OSError(f"{log.stem} did not come up: {_words(log)[-500:]}")


async def listens(child: Child, log: Path, port: int) -> None:
    """Return when a program has its port.

    Raises:
        OSError: it ended instead, or does not.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_UP_S):
            while child.exit_status() is None:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    return
                await asyncio.sleep(_POLL_S)
    raise OSError(f"{log.stem} did not come up: {_words(log)[-500:]}")


@asynccontextmanager
async def peers(node: BenchNode, count: int) -> AsyncGenerator[list[str]]:
    """Give the vm_ids of so many VMs without a QEMU."""
    log = node.root / "peers.log"
    argv = [sys.executable, "-m", "bench.console.peers", str(node.node_toml), str(count)]
    async with program(argv, log) as child:
        yield (await line_of(child, log)).split()


def state_dir(node: BenchNode) -> Path:
    """Return where the daemon has its certificate, with the key."""
    return node.root / "web"


@asynccontextmanager
async def daemon(node: BenchNode) -> AsyncGenerator[tuple[Child, str]]:
    """Give `qemu-node serve` and its URL: with TLS, open to everybody on loopback."""
    port = free_port()
    settings = settings_of(node, "daemon", port, 'auth = "none"\naccept_open_access = true\n')
    log = node.root / "daemon.log"
    state_dir(node).mkdir(exist_ok=True)
    env = {"STATE_DIRECTORY": str(state_dir(node)), "RUNTIME_DIRECTORY": str(node.root / "web-run")}
    argv = [sys.executable, "-m", "qemu_node", "--config", str(settings), "serve"]
    async with program(argv, log, env=env) as child:
        await listens(child, log, port)
        yield child, f"https://127.0.0.1:{port}"


def settings_of(node: BenchNode, name: str, port: int, more: str) -> Path:
    """Write a node.toml for the console at `port` of loopback, and return its path."""
    path = node.root / f"{name}.toml"
    web = f'[web]\naddresses = ["127.0.0.1"]\nport = {port}\n{more}'
    path.write_text(node.node_toml.read_text() + web)
    return path
