"""The serial port of a QEMU, shared by a real daemon among browsers and `vm console`.

The guest is a boot sector that sends back what is typed, byte for byte.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from guests import bootsector
from integration.test_cli_vm import CommandLine, Terminal
from integration.vmnode import VMNode, until

from qemu_node.config.node import NodeConfig
from qemu_node.host.process import command, pidfd
from qemu_node.host.process.command import Child
from qemu_node.inventory.access import connect_monitor
from qemu_node.inventory.serialport import Join, join_any, shared_sockets
from qemu_node.qmp.commands import system_reset
from qemu_node.vm.life.machine import VM
from qemu_node.web.service.serving import serving_by_link

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(600)]

WAIT_S = 120.0
READY = b"R\n"


class Daemon:
    """One `qemu-node serve` of this user."""

    def __init__(self, node: VMNode) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._log = node.root / "daemon.log"
        self._state = node.root / "state"
        self._config = node.root / "serve.toml"
        self._config.write_text(
            f'[paths]\nrun = "{node.paths.run}"\ndata = "{node.paths.data}"\n'
            f'[web]\naddresses = ["127.0.0.1"]\nport = {self._port}\n'
            'auth = "none"\naccept_open_access = true\n'
        )
        self.origin = f"https://127.0.0.1:{self._port}"
        self.child: Child | None = None

    async def start(self, shared: Path) -> None:
        """Start it; return once it shares the port."""
        self._state.mkdir(exist_ok=True)
        argv = [sys.executable, "-m", "qemu_node", "--config", str(self._config), "serve"]
        env = dict(os.environ) | {"STATE_DIRECTORY": str(self._state)}
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            self.child = command.spawn(argv, stderr_fd=log, env=env)
        finally:
            os.close(log)

        def is_served() -> bool:
            with socket.socket(socket.AF_UNIX) as sock:
                try:
                    sock.connect(str(shared))
                except OSError:
                    return False
                return True

        await until(is_served, bool, "a shared port")
        await until(self._log.read_text, lambda log: "serves the console" in log, "a port")

    async def kill(self) -> None:
        """End it without a word."""
        assert self.child is not None
        pidfd.send_signal(self.child.process, signal.SIGKILL)
        async with asyncio.timeout(WAIT_S):
            await pidfd.wait_gone(self.child.process)
        self.child.exit_status()
        self.child = None


class Browser:
    """A page with the serial terminal of a VM."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._ws = ws
        self.seen = bytearray()
        self.notices: list[dict[str, Any]] = []
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def open(
        cls, session: aiohttp.ClientSession, origin: str, vm_id: str, *, mode: str = "control"
    ) -> "Browser":
        path = f"{origin}/api/v1/vms/{vm_id}"
        headers = {"Origin": origin, "X-QN": "1"}
        body = {"kind": "serial", "mode": mode}
        async with session.post(f"{path}/ticket", json=body, headers=headers) as reply:
            assert reply.status == 200, await reply.text()
            ticket = (await reply.json())["ticket"]
        ws = await session.ws_connect(f"{path}/serial", headers=headers)
        await ws.send_json({"ticket": ticket})
        assert await ws.receive_str() == "ok"
        browser = cls(ws)
        await browser.has(lambda: {"type": "port", "state": "open"} in browser.notices)
        return browser

    async def _read(self) -> None:
        async for message in self._ws:
            if message.type is aiohttp.WSMsgType.BINARY:
                self.seen += message.data
            else:
                self.notices.append(json.loads(message.data))

    async def type(self, keys: bytes) -> None:
        await self._ws.send_bytes(keys)

    async def has(self, condition: Any) -> None:
        await until(condition, bool, f"what was expected; seen: {self.seen[-500:]!r}")

    async def shows(self, text: bytes) -> None:
        await self.has(lambda: text in self.seen)

    async def ended(self) -> int | None:
        async with asyncio.timeout(WAIT_S):
            await self._reading
        return self._ws.close_code


@pytest.fixture
def image(empty_image: Path) -> Path:
    empty_image.write_bytes(bootsector.serial_echo())
    return empty_image


@pytest.fixture
async def vm(node: VMNode) -> VM:
    vm = await node.start(node.request())
    await node.printed(READY.decode())
    return vm


@pytest.fixture
def shared(node: VMNode, vm: VM) -> Path:
    return node.paths.web_run_dir / f"{vm.record.vm_id}.sock"


@pytest.fixture
async def daemon(node: VMNode, shared: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(node)
    try:
        await daemon.start(shared)
        yield daemon
    finally:
        if daemon.child is not None:
            await daemon.kill()


@pytest.fixture
async def session(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.CookieJar(unsafe=True), connector=aiohttp.TCPConnector(ssl=False)
    ) as session:
        url, headers = f"{daemon.origin}/api/v1/login", {"X-QN": "1", "Origin": daemon.origin}
        async with session.post(url, json={"open": True}, headers=headers) as reply:
            assert reply.status == 200, await reply.text()
        yield session


async def test_browsers_and_a_console_share_the_port_and_outlive_a_reset_and_the_daemon(
    node: VMNode, vm: VM, daemon: Daemon, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    vm_id, terminal, words = vm.record.vm_id, Terminal(), tmp_path / "stderr"
    one = await Browser.open(session, daemon.origin, vm_id)
    two = await Browser.open(session, daemon.origin, vm_id)
    looks = await Browser.open(session, daemon.origin, vm_id, mode="view")
    with words.open("wb") as stderr:
        child = command.spawn(
            CommandLine(node).argv("console", "vm"),
            stdin_fd=terminal.slave,
            stdout_fd=terminal.slave,
            stderr_fd=stderr.fileno(),
            env=dict(os.environ),
        )
    try:
        await until(words.read_text, lambda text: "Ctrl-] leaves" in text, "greeting")
        await one.has(lambda: len(one.notices[-1].get("viewers", ())) == 4)
        # All type, all see the same. The guest sends back what it gets.
        await one.type(b"<one>")
        await two.shows(b"<one>")
        await two.type(b"<two>")
        await one.shows(b"<two>")
        async with asyncio.timeout(WAIT_S):
            # Typed again until the console has taken over the terminal.
            while b"<console>" not in terminal._look():
                terminal.type(b"<console>")
                await asyncio.sleep(0.5)
        await looks.shows(b"<console>")
        # Bytes are bytes: a character in two pieces, and Latin-1.
        await one.type(b"<\xe2")
        await two.shows(b"<\xe2")
        await one.type(b"\x94\x80\xe4\xf6\xff\x80>")
        for browser in (one, two, looks):
            await browser.shows(b"<\xe2\x94\x80\xe4\xf6\xff\x80>")
        # Who only looks types nothing.
        await looks.type(b"<looks>")
        await one.type(b"<after>")
        await two.shows(b"<after>")
        assert b"<looks>" not in two.seen
        # A reset keeps all of them.
        before = two.seen.count(READY)
        async with await connect_monitor(vm.record) as qmp:
            await system_reset(qmp)
        await two.has(lambda: two.seen.count(READY) > before)
        await one.type(b"<reset>")
        for browser in (two, looks):
            await browser.shows(b"<reset>")
        await terminal.shows(b"<reset>")
        # The daemon dies; the guest, its log and the console go on.
        await daemon.kill()
        await until(words.read_text, lambda text: "goes on without it" in text, "its word")
        async with asyncio.timeout(WAIT_S):
            while b"<alone>" not in terminal._look():
                terminal.type(b"<alone>")
                await asyncio.sleep(0.5)
        await node.printed("<alone>")
        terminal.type(b"\x1d")
        assert await until(child.exit_status, lambda code: code is not None, "its end") == 0
    finally:
        terminal.close()
    assert vm.exit is None


async def get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json() if reply.content_type == "application/json" else reply.status


async def test_a_run_beside_the_daemon_shares_vms_with_it_and_outlives_it(
    node: VMNode, vm: VM, daemon: Daemon, session: aiohttp.ClientSession
) -> None:
    vm_id = vm.record.vm_id
    config = NodeConfig(paths=node.paths)
    browser = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
    async with serving_by_link(config) as make_link, browser:
        origin, _, link = make_link().partition("/#link=")
        headers = {"X-QN": "1", "Origin": origin}
        login = browser.post(f"{origin}/api/v1/login", json={"link": link}, headers=headers)
        async with login as reply:
            assert reply.status == 200, await reply.text()
        # QEMU has one monitor for consoles; both are answered.
        for asks, at in ((session, daemon.origin), (browser, origin)):
            (shown,) = (await get(asks, f"{at}/api/v1/vms"))["vms"]
            assert shown["vm_id"] == vm_id
            async with asyncio.timeout(WAIT_S):
                while True:
                    details = await get(asks, f"{at}/api/v1/vms/{vm_id}")
                    if details["qemu"].get("run_state") == "running":
                        break
                    await asyncio.sleep(0.2)
            assert await get(asks, f"{at}/api/v1/vms/{vm_id}/thumbnail") == 200
        # And one serial port, whoever comes first.
        of_run = await Browser.open(browser, origin, vm_id)
        of_daemon = await Browser.open(session, daemon.origin, vm_id)
        await of_run.type(b"<run>")
        await of_daemon.shows(b"<run>")
        await of_daemon.type(b"<daemon>")
        await of_run.shows(b"<daemon>")
        await daemon.kill()
        async with asyncio.timeout(WAIT_S):
            while b"<alone>" not in of_run.seen:
                await of_run.type(b"<alone>")
                await asyncio.sleep(0.2)
        # A console of the command line finds the one that is left.
        (path,) = (p for p in shared_sockets(node.paths, vm_id) if p.parent.name == "web-run")
        sock = await join_any([path], Join.VIEW)
        assert sock is not None
        sock.close()
    assert vm.exit is None


def has_all(log: bytes, printed: bytes) -> bool:
    """Tell whether a log is what was printed, with some bytes twice.

    QEMU logs a byte that the socket does not take, and again when it does (chardev/char.c,
    qemu_chr_write_buffer, 7.2).
    """
    n = 0
    for byte in log:
        if n < len(printed) and byte == printed[n]:
            n += 1
        elif not n or byte != printed[n - 1]:
            return False
    return n == len(printed)


async def test_a_slow_viewer_is_cut_while_a_guest_floods_and_nothing_is_lost(
    node: VMNode, vm: VM, daemon: Daemon, session: aiohttp.ClientSession, shared: Path
) -> None:
    slow, writer = await asyncio.open_unix_connection(shared)
    writer.write(b"control\n")
    async with asyncio.timeout(WAIT_S):
        assert await slow.readline() == b"open\n"
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    quick = await Browser.open(session, daemon.origin, vm.record.vm_id)
    await quick.type(b"F")
    async with asyncio.timeout(4 * WAIT_S):
        while not quick.seen.endswith(b".\n"):
            await asyncio.sleep(0.5)
    assert bootsector.flood() in quick.seen
    await node.printed("\n.\n", timeout_s=2 * WAIT_S)
    assert has_all(bytes(node.console["vm"]), READY + bootsector.flood() + b".\n")
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(WAIT_S):
        try:
            got = await slow.read()
        except ConnectionResetError:
            got = b""
    assert not got.endswith(b".\n")
    writer.close()
    # The end of the VM is told, with its reason.
    await node.supervisor.destroy_all()
    assert await quick.ended() == 4410
