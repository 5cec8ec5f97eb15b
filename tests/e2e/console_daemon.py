"""`qemu-node serve` as a process of its own on loopback, over its restarts."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from e2e.nomad_agent import WAIT_S, free_ports

from qemu_node.host.process import command, pidfd
from qemu_node.host.process.command import Child


@dataclass
class ConsoleDaemon:
    """One console; its certificate and log stay in `root`."""

    root: Path
    settings: Path
    """node.toml, with `web.port`."""
    port: int
    nomad_address: str
    host: str = "127.0.0.1"
    """In its address: a browser keeps the cookies of each by itself."""
    _child: Child | None = None

    @property
    def address(self) -> str:
        """As a browser shows it."""
        return f"https://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.root / "daemon.log").read_text(errors="replace")

    async def start(self) -> None:
        """Start it; return when it answers."""
        argv = [sys.executable, "-m", "qemu_node", "--config", str(self.settings), "serve"]
        env = dict(command.SAFE_ENV) | {
            "PYTHONPATH": ":".join(filter(None, sys.path)),
            "NOMAD_ADDR": self.nomad_address,
            "STATE_DIRECTORY": str(self.root / "state"),
            "RUNTIME_DIRECTORY": str(self.root / "runtime"),
        }
        self.root.mkdir(exist_ok=True)
        log = os.open(self.root / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            self._child = command.spawn(argv, stderr_fd=log, env=env)
        finally:
            os.close(log)
        async with browser() as anybody, asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with anybody.get(f"{self.address}/api/v1/login") as reply:
                        if reply.status == 200:
                            return
                assert self._child.exit_status() is None, self.log
                await asyncio.sleep(0.2)

    async def stop(self) -> None:
        """End it, if it runs."""
        child, self._child = self._child, None
        if child is None or child.exit_status() is not None:
            return
        pidfd.send_signal(child.process, signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            await pidfd.wait_gone(child.process)
        child.exit_status()


@contextlib.asynccontextmanager
async def running_daemon(root: Path, nomad_address: str) -> AsyncGenerator[str]:
    """Return the address of a console of a node without VMs, with `root` for all that it has."""
    (port,) = free_ports(1)
    settings = write_settings(root, port)
    daemon = ConsoleDaemon(root, settings, port, nomad_address)
    try:
        await daemon.start()
        yield daemon.address
    finally:
        await daemon.stop()


def write_settings(root: Path, port: int) -> Path:
    """Return the node.toml of a node without VMs."""
    settings = root / "node.toml"
    settings.write_text(f'[paths]\nrun = "{root}/run"\ndata = "{root}/data"\n{web_settings(port)}')
    return settings


def web_settings(port: int) -> str:
    """Return `[web]` of a console on loopback."""
    return f'[web]\naddresses = ["127.0.0.1"]\nport = {port}\n'


def browser() -> aiohttp.ClientSession:
    """Return a browser whose user has accepted the certificate."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.CookieJar(unsafe=True), connector=aiohttp.TCPConnector(ssl=False)
    )
