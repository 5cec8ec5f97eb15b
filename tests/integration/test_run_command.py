"""`qemu-node run` as a process, with the real driver and a QEMU whose guest has nothing to boot."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession, CookieJar

import qemu_node
from qemu_node.host.process import identity, pidfd
from qemu_node.host.process.command import SAFE_ENV, Child, spawn
from qemu_node.vm.record.record import VMRecord, read_record

pytestmark = [pytest.mark.needs_qemu, pytest.mark.needs_root]

_DEADLINE_S = 120.0
_SRC = str(Path(qemu_node.__file__).parents[1])

JOB = """
job "run" {
  group "g" {
    count = 2
    task "vm" {
      driver       = "vm"
      kill_timeout = "6s"
      config {
        image    = "IMAGE"
        firmware = "bios"
      }
      resources { memory = 256 }
    }
  }
}
"""


class RunCommand:
    """One `qemu-node run`, its events, and the directories it works in."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.data = root / "data"
        self.run_dir = root / "run"
        images = root / "images"
        images.mkdir()
        with (images / "blank.raw").open("wb") as image:
            image.truncate(1 << 20)
        (root / "node.toml").write_text(
            f'[paths]\nrun = "{self.run_dir}"\ndata = "{self.data}"\n'
            f'[images]\nimage_paths = ["{images}"]\n[qemu]\naccelerator = "tcg"\n'
        )
        (root / "job.nomad.hcl").write_text(JOB.replace("IMAGE", str(images / "blank.raw")))
        self._children: list[Child] = []

    def start(self, *, from_stdin: bool = False, firmware: str = "bios") -> Child:
        job = self._root / "job.nomad.hcl"
        job.write_text(job.read_text().replace("bios", firmware))
        argv = [
            sys.executable, "-m", "qemu_node", "--config", str(self._root / "node.toml"),
            "run", "--json", "--parser", "hcl2", "-" if from_stdin else str(job),
        ]  # fmt: skip
        env = dict(SAFE_ENV) | {"PYTHONPATH": _SRC}
        out = os.open(self._root / "events", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        err = os.open(self._root / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        stdin = os.open(job, os.O_RDONLY)
        try:
            child = spawn(argv, stderr_fd=err, stdout_fd=out, stdin_fd=stdin, env=env)
        finally:
            os.close(stdin)
            os.close(out)
            os.close(err)
        self._children.append(child)
        return child

    def events(self, kind: str) -> list[dict[str, object]]:
        lines = (self._root / "events").read_text().splitlines()
        return [event for line in lines if (event := json.loads(line))["event"] == kind]

    def plugins(self) -> list[str]:
        """Return the driver processes whose sockets are in the directory that node.toml names."""
        return [path.name for path in (self.run_dir / "plugin").glob("*.lock")]

    def records(self) -> list[VMRecord]:
        return [read_record(path) for path in (self.run_dir / "vm").glob("*/vm.json")]

    def stderr(self) -> str:
        return (self._root / "stderr").read_text()

    async def until(self, condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                while not condition():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"waited in vain; stderr: {self.stderr()}")

    async def until_running(self, child: Child) -> list[VMRecord]:
        await self.until(
            lambda: len(self.events("running")) == 2 or child.exit_status() is not None
        )
        assert child.exit_status() is None, self.stderr()
        return self.records()

    async def exit_code(self, child: Child) -> int:
        await self.until(lambda: child.exit_status() is not None)
        code = child.exit_status()
        assert code is not None
        return code

    async def aclose(self) -> None:
        for child in self._children:
            pidfd.send_signal(child.process, signal.SIGKILL)
            await pidfd.wait_gone(child.process)
            child.exit_status()
        for record in self.records():
            pidfd.send_signal(record.process, signal.SIGKILL)


@pytest.fixture
async def command() -> AsyncIterator[RunCommand]:
    # pytest's directories are too long for sockets, and closed to the users that VMs run as.
    with tempfile.TemporaryDirectory(prefix="run-") as root:
        os.chmod(root, 0o711)  # noqa: PTH101 - Path.chmod counts as blocking
        running = RunCommand(Path(root))
        yield running
        await running.aclose()


async def test_ctrl_c_stops_all_vms_and_leaves_nothing(command: RunCommand) -> None:
    child = command.start()
    records = await command.until_running(child)
    assert all(identity.is_alive(record.process) for record in records)
    assert len(command.plugins()) == 1
    assert pidfd.send_signal(child.process, signal.SIGINT)
    assert await command.exit_code(child) == 0, command.stderr()
    assert len(command.events("exited")) == 2
    assert not any(identity.is_alive(record.process) for record in records)
    assert command.records() == []
    assert list((command.data / "run").iterdir()) == []
    vm_dirs = (command.data / "vm").iterdir()
    assert [path.name for path in vm_dirs if not path.name.startswith(".")] == []


async def test_a_second_ctrl_c_does_not_wait(command: RunCommand) -> None:
    child = command.start()
    await command.until_running(child)
    assert pidfd.send_signal(child.process, signal.SIGINT)
    await command.until(lambda: len(command.events("stopping")) == 2)
    assert pidfd.send_signal(child.process, signal.SIGINT)
    assert await command.exit_code(child) == 130, command.stderr()
    assert command.records() == []


async def test_a_vm_that_dies_fails_the_command(command: RunCommand) -> None:
    child = command.start()
    for record in await command.until_running(child):
        pidfd.send_signal(record.process, signal.SIGKILL)
    assert await command.exit_code(child) == 1, command.stderr()
    assert len(command.events("failed")) == 2


async def test_vms_do_not_outlive_a_command_that_is_killed(command: RunCommand) -> None:
    child = command.start()
    records = await command.until_running(child)
    pidfd.send_signal(child.process, signal.SIGKILL)
    await command.until(lambda: not any(identity.is_alive(r.process) for r in records))
    await command.until(lambda: command.records() == [])
    left_over = list((command.data / "run").iterdir())
    assert left_over
    again = command.start()
    await command.until_running(again)
    assert not any(path.exists() for path in left_over)
    pidfd.send_signal(again.process, signal.SIGINT)
    assert await command.exit_code(again) == 0, command.stderr()


async def test_a_job_from_stdin_runs_with_the_settings_that_config_names(
    command: RunCommand,
) -> None:
    child = command.start(from_stdin=True)
    # The plugin keeps its VMs in the directories that node.toml names.
    assert len(await command.until_running(child)) == 2
    assert pidfd.send_signal(child.process, signal.SIGINT)
    assert await command.exit_code(child) == 0, command.stderr()


async def test_what_a_guest_that_boots_shows_on_its_console_is_told(command: RunCommand) -> None:
    child = command.start(firmware="uefi")
    await command.until_running(child)
    await command.until(lambda: len(command.events("console")) >= 2)
    assert pidfd.send_signal(child.process, signal.SIGINT)
    assert await command.exit_code(child) == 0, command.stderr()


async def test_the_printed_link_lets_one_browser_in_who_sees_both_vms(command: RunCommand) -> None:
    child = command.start()
    records = await command.until_running(child)
    await command.until(lambda: "/#link=" in command.stderr())
    (line,) = [line for line in command.stderr().splitlines() if "/#link=" in line]
    url, _, link = line.rpartition(" ")[2].partition("/#link=")
    assert url.startswith("http://127.0.0.1:")
    jar = CookieJar(unsafe=True)
    async with ClientSession(cookie_jar=jar) as browser, ClientSession() as other:
        for who, status in ((browser, 200), (other, 401)):
            login = who.post(f"{url}/api/v1/login", json={"link": link}, headers={"X-QN": "1"})
            async with login as reply:
                assert reply.status == status, await reply.text()
        wanted = {record.vm_id for record in records}
        # The console notices them soon, not at once.
        async with asyncio.timeout(_DEADLINE_S):
            while True:
                async with browser.get(f"{url}/api/v1/vms") as reply:
                    if {vm["vm_id"] for vm in (await reply.json())["vms"]} == wanted:
                        break
                await asyncio.sleep(0.1)
    # What programs read is events, and no secret.
    assert link not in (command.data.parent / "events").read_text()
    assert pidfd.send_signal(child.process, signal.SIGINT)
    assert await command.exit_code(child) == 0, command.stderr()
