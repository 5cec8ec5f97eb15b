"""`qemu-node serve` as a process of another user, beside VMs of a driver that is root."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from integration.vmnode import VMNode

import qemu_node
from qemu_node.cli.doctor.consolecheck import read_console
from qemu_node.config.node import NodeConfig
from qemu_node.config.web import WebConfig
from qemu_node.host.process import pidfd
from qemu_node.host.process.command import SAFE_ENV, Child, run_blocking, spawn
from qemu_node.host.process.identity import is_alive

pytestmark = [pytest.mark.needs_qemu, pytest.mark.needs_root]

_DEADLINE_S = 120.0
_UID, _GID = 65501, 65500
_AS_USER = [
    "setpriv", f"--reuid={_UID}", f"--regid={_GID}", "--clear-groups", "--no-new-privs",
    "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all",
]  # fmt: skip

_CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


class Daemon:
    """One `qemu-node serve`, as the unit starts it."""

    def __init__(self, node: VMNode, port: int, systemd: socket.socket, notify: Path) -> None:
        self.port = port
        self._root = node.root
        self._systemd = systemd
        self._notify = notify
        self._log = node.root / "daemon.log"
        self.child: Child | None = None
        self.settings = node.root / "node.toml"
        self.settings.write_text(
            f'[paths]\nrun = "{node.paths.run}"\ndata = "{node.paths.data}"\n'
            f'[web]\naddresses = ["127.0.0.1"]\nport = {port}\n'
            'auth = "none"\naccept_open_access = true\n'
        )

    def start(self) -> None:
        """Start it; a daemon before it has ended."""
        argv = [*_AS_USER, sys.executable, "-m", "qemu_node", "--config", str(self.settings)]
        env = dict(SAFE_ENV) | {
            "PYTHONPATH": str(Path(qemu_node.__file__).parents[1]),
            "NOTIFY_SOCKET": str(self._notify),
            "WATCHDOG_USEC": "1000000",
            "STATE_DIRECTORY": str(self._root / "state"),
            "RUNTIME_DIRECTORY": str(self._root / "runtime"),
        }
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            self.child = spawn([*argv, "serve"], stderr_fd=log, env=env)
        finally:
            os.close(log)

    def log(self) -> str:
        """Return what it has said."""
        return self._log.read_text()

    async def told(self, word: str) -> None:
        """Return once systemd has been told `word`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DEADLINE_S):
                while word not in (await loop.sock_recv(self._systemd, 4096)).decode():
                    pass
        except TimeoutError:
            pytest.fail(f"systemd was never told {word}: {self.log()}")

    async def end(self, number: signal.Signals) -> int:
        """End it by a signal; return its exit status."""
        assert self.child is not None
        pidfd.send_signal(self.child.process, number)
        async with asyncio.timeout(_DEADLINE_S):
            await pidfd.wait_gone(self.child.process)
        status = self.child.exit_status()
        assert status is not None
        return status

    async def get(self, path: str) -> Any:
        """Return the JSON of a path, for somebody who has logged in."""
        jar = aiohttp.CookieJar(unsafe=True)
        connector = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(cookie_jar=jar, connector=connector) as session:
            url = f"https://127.0.0.1:{self.port}"
            login = session.post(f"{url}/api/v1/login", json={"open": True}, headers={"X-QN": "1"})
            async with login as reply:
                assert reply.status == 200, await reply.text()
            async with session.get(f"{url}{path}") as reply:
                assert reply.status == 200, await reply.text()
                return await reply.json()


@pytest.fixture
def systemd(short_tmp_path: Path) -> Iterator[tuple[socket.socket, Path]]:
    path = short_tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        path.chmod(0o666)
        sock.setblocking(False)
        yield sock, path


@pytest.fixture
async def shared(short_tmp_path: Path, image: Path) -> AsyncIterator[VMNode]:
    """A node whose VMs' sockets are for the daemon's group."""
    node = VMNode(short_tmp_path, image, shared_gid=_GID)
    yield node
    await node.close()


@pytest.fixture
async def daemon(shared: VMNode, systemd: tuple[socket.socket, Path]) -> AsyncIterator[Daemon]:
    try:
        run_blocking([*_AS_USER, sys.executable, "-c", ""])
    except Exception as exc:
        pytest.skip(f"another user cannot start this Python: {exc}")
    for name in ("state", "runtime"):
        (shared.root / name).mkdir()
        os.chown(shared.root / name, _UID, _GID)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    found = Daemon(shared, port, *systemd)
    yield found
    if found.child is not None:
        pidfd.send_signal(found.child.process, signal.SIGKILL)
        await pidfd.wait_gone(found.child.process)
        found.child.exit_status()


async def test_a_user_of_the_group_serves_the_vms_of_root(shared: VMNode, daemon: Daemon) -> None:
    vm = await shared.start(shared.request())
    daemon.start()
    await daemon.told("READY=1")
    await daemon.told("WATCHDOG=1")
    (shown,) = (await daemon.get("/api/v1/vms"))["vms"]
    assert shown["vm_id"] == vm.state.vm_id
    details = await daemon.get(f"/api/v1/vms/{vm.state.vm_id}")
    assert details["qemu"].get("problem", "") == "", "its own monitor answers"
    assert details["qemu"]["run_state"] == "running"
    # The socket that QEMU itself makes is for the group, too.
    run_blocking([*_AS_USER, sys.executable, "-c", _CONNECT, str(vm.directory.run / "vnc.sock")])
    shown_to_all = shared.root / "runtime/certificate.pem"
    assert shown_to_all.read_text().count("PRIVATE") == 0
    # What `qemu-node doctor` says of it.
    shared.paths.console_certificate.parent.mkdir(exist_ok=True)
    shutil.copy(shown_to_all, shared.paths.console_certificate)
    config = NodeConfig(paths=shared.paths, web=WebConfig(port=daemon.port))
    facts = await asyncio.to_thread(read_console, config)
    assert facts is not None
    assert (facts.problem, facts.ways, facts.why) == (None, ("open",), "")
    assert await daemon.end(signal.SIGTERM) == 0, daemon.log()
    await daemon.told("STOPPING=1")


async def test_vms_do_not_notice_a_daemon_that_is_killed_and_started_again(
    shared: VMNode, daemon: Daemon
) -> None:
    vm = await shared.start(shared.request())
    state = (vm.directory.data / "state.json").read_bytes()
    published = (vm.directory.run / "vm.json").read_bytes()
    for _ in range(2):
        daemon.start()
        await daemon.told("READY=1")
        details = await daemon.get(f"/api/v1/vms/{vm.state.vm_id}")
        assert details["qemu"]["run_state"] == "running"
        assert await daemon.end(signal.SIGKILL) == -signal.SIGKILL
        assert is_alive(vm.state.record.process)
    assert (vm.directory.data / "state.json").read_bytes() == state
    assert (vm.directory.run / "vm.json").read_bytes() == published
    # The driver's own connection is as it was.
    following = await shared.restarted()
    try:
        assert (await following.supervisor.recover(vm.state)).state == vm.state
    finally:
        await following.close()


async def test_its_end_waits_for_no_stream(shared: VMNode, daemon: Daemon) -> None:
    daemon.start()
    await daemon.told("READY=1")
    jar = aiohttp.CookieJar(unsafe=True)
    connector = aiohttp.TCPConnector(ssl=False)
    url = f"https://127.0.0.1:{daemon.port}"
    async with aiohttp.ClientSession(cookie_jar=jar, connector=connector) as session:
        login = session.post(f"{url}/api/v1/login", json={"open": True}, headers={"X-QN": "1"})
        async with login as reply:
            assert reply.status == 200
        async with session.get(f"{url}/api/v1/events") as stream:
            assert await stream.content.readany()
            assert await daemon.end(signal.SIGTERM) == 0, daemon.log()
            with contextlib.suppress(aiohttp.ClientError):
                await stream.content.read()
    assert "did not end in time" not in daemon.log()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ('cert_file = "/etc/shadow"', "hint: both must be PEM"),
        ('cert_file = "/nonexistent.pem"', "cannot be used: No such file"),
        ('addresses = ["192.0.2.99"]', "hint: web.addresses in node.toml must be addresses"),
        ("port = 70000", "web.port must be 1 to 65535"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(settings: str, problem: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "node.toml"
        path.write_text(
            f'[paths]\nrun = "{directory}/r"\ndata = "{directory}/d"\n[web]\n{settings}\n'
        )
        done = run_blocking(
            [sys.executable, "-m", "qemu_node", "--config", str(path), "serve"],
            env=dict(SAFE_ENV) | {"PYTHONPATH": str(Path(qemu_node.__file__).parents[1])},
            check=False,
        )
    assert done.returncode == 1
    assert problem in done.stderr.decode()


def test_a_console_that_is_switched_off_ends_well(short_tmp_path: Path) -> None:
    path = short_tmp_path / "node.toml"
    path.write_text("[web]\nenabled = false\n")
    done = run_blocking(
        [sys.executable, "-m", "qemu_node", "--config", str(path), "serve"],
        env=dict(SAFE_ENV) | {"PYTHONPATH": str(Path(qemu_node.__file__).parents[1])},
    )
    assert b"there is no console" in done.stderr
