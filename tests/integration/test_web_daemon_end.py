"""How `qemu-node serve` ends: with everybody connected, and without a word at any moment."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from fakes.fake_qmp import FakeQmp
from fakes.fake_serial import FakePort
from fakes.published import make_record, publish
from integration.vmnode import until

from qemu_node.config.node import Paths
from qemu_node.host.process import command, pidfd
from qemu_node.host.process.command import Child

WAIT_S = 120.0
VM_IDS = [f"web-0123456789{n:02}" for n in range(25)]
SOCKETS_OF_SESSION, SOCKETS_OF_VM = 8, 4
GOING_AWAY = 1001


class Daemon:
    """One daemon of this user, over VMs whose QEMUs this process plays."""

    def __init__(self, root: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.paths = Paths(run=str(root / "r"), data=str(root / "d"))
        self.origin = f"https://127.0.0.1:{port}"
        self.state = root / "state"
        self._log = root / "daemon.log"
        self._config = root / "serve.toml"
        self._config.write_text(
            f'[paths]\nrun = "{self.paths.run}"\ndata = "{self.paths.data}"\n'
            f'[web]\naddresses = ["127.0.0.1"]\nport = {port}\n'
            'auth = "none"\naccept_open_access = true\n'
        )
        self._child: Child | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "qemu_node", "--config", str(self._config), "serve"]
        env = dict(os.environ) | {"STATE_DIRECTORY": str(self.state)}
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self._child = command.spawn(argv, stderr_fd=log, env=env)
        finally:
            os.close(log)

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def serves(self) -> bool:
        return "serves the console" in self.log()

    async def ready(self) -> None:
        await until(lambda: self.serves, bool, "a console that serves")

    async def end(self, number: signal.Signals) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        pidfd.send_signal(child.process, number)
        async with asyncio.timeout(WAIT_S):
            await pidfd.wait_gone(child.process)
        return child.exit_status()


@pytest.fixture
async def daemon(short_tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(short_tmp_path)
    yield daemon
    await daemon.end(signal.SIGKILL)


@contextlib.asynccontextmanager
async def published(paths: Paths, vm_ids: list[str]) -> AsyncIterator[None]:
    """Have VMs whose serial ports and monitors answer."""
    free = {"label": "serial0", "filename": "disconnected:unix:x"}
    async with contextlib.AsyncExitStack() as stack:
        for vm_id in vm_ids:
            directory = publish(paths, make_record(paths, vm_id=vm_id))
            await stack.enter_async_context(FakePort(directory.socket("serial")))
            qmp = FakeQmp(directory.socket("console"), replies={"query-chardev": [free]})
            await stack.enter_async_context(qmp)
        yield


async def log_in(daemon: Daemon) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        cookie_jar=aiohttp.CookieJar(unsafe=True), connector=aiohttp.TCPConnector(ssl=False)
    )
    url, headers = f"{daemon.origin}/api/v1/login", {"X-QN": "1", "Origin": daemon.origin}
    async with session.post(url, json={"open": True}, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
    return session


async def open_serial(
    daemon: Daemon, session: aiohttp.ClientSession, vm_id: str
) -> aiohttp.ClientWebSocketResponse:
    path, headers = f"{daemon.origin}/api/v1/vms/{vm_id}", {"X-QN": "1", "Origin": daemon.origin}
    body = {"kind": "serial", "mode": "control"}
    async with session.post(f"{path}/ticket", json=body, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
        ticket = (await reply.json())["ticket"]
    ws = await session.ws_connect(f"{path}/serial", headers=headers)
    await ws.send_json({"ticket": ticket})
    assert await ws.receive_str() == "ok"
    return ws


async def close_code(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    async for _ in ws:
        pass
    return ws.close_code


async def test_it_ends_in_time_with_a_hundred_open_sockets_and_tells_each(daemon: Daemon) -> None:
    async with contextlib.AsyncExitStack() as stack, published(daemon.paths, VM_IDS):
        daemon.start()
        await daemon.ready()
        wanted = [vm_id for vm_id in VM_IDS for _ in range(SOCKETS_OF_VM)]
        sockets = []
        while wanted:
            session = await stack.enter_async_context(await log_in(daemon))
            for vm_id in wanted[:SOCKETS_OF_SESSION]:
                sockets.append(await open_serial(daemon, session, vm_id))  # noqa: PERF401
            del wanted[:SOCKETS_OF_SESSION]
        assert len(sockets) == 100
        codes = [asyncio.ensure_future(close_code(ws)) for ws in sockets]
        assert await daemon.end(signal.SIGTERM) == 0, daemon.log()
        assert set(await asyncio.gather(*codes)) == {GOING_AWAY}
    assert list(daemon.paths.web_run_dir.glob("*.sock")) == []


def moments(daemon: Daemon) -> list[Callable[[], bool]]:
    """Return what a daemon has just done when it is killed."""
    shared = daemon.paths.web_run_dir
    return [
        lambda: True,
        lambda: daemon.state.exists(),
        lambda: any(daemon.state.glob(".new-*")) or any(daemon.state.glob("certificate.pem")),
        lambda: any(shared.glob("*.sock")),
        lambda: daemon.serves,
    ]


async def test_killed_at_any_moment_it_leaves_nothing_that_stops_the_next_start(
    daemon: Daemon,
) -> None:
    async with published(daemon.paths, VM_IDS[:3]):
        for has_come in moments(daemon):
            daemon.start()
            await until(has_come, bool, "its moment")
            await daemon.end(signal.SIGKILL)
        daemon.start()
        await daemon.ready()
        async with await log_in(daemon) as session:
            ws = await open_serial(daemon, session, VM_IDS[0])
            # With somebody at a serial port.
            await daemon.end(signal.SIGKILL)
            await close_code(ws)
        daemon.start()
        await daemon.ready()
        async with await log_in(daemon) as session:
            ws = await open_serial(daemon, session, VM_IDS[0])
            await ws.close()
        shared = {path.stem for path in daemon.paths.web_run_dir.glob("*.sock")}
        assert shared == set(VM_IDS[:3])
        assert [path.name for path in daemon.state.iterdir()] == ["certificate.pem"]
        assert await daemon.end(signal.SIGTERM) == 0
