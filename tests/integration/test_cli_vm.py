"""`qemu-node vm` beside a driver, on a guest that boots."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
import termios
from pathlib import Path

import pytest
from integration.vmnode import VMNode, until

from qemu_node.host.process import command, pidfd
from qemu_node.host.process.command import Completed
from qemu_node.nomad.task.tasklog import TaskLog
from qemu_node.vm.life.machine import VM
from qemu_node.vm.output.vmlogs import TaskLogs
from qemu_node.vm.record.outcome import POWERED_OFF

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(600)]

READY = "small guest ready"
TIMEOUT_S = 120.0
# Repeats each line that is typed on the serial console.
REPEATER = """#!/bin/sh
(while read -r line; do echo "heard $line"; done) </dev/ttyS0 >/dev/ttyS0 &
"""


class CommandLine:
    """`qemu-node vm` as an operator of this node calls it."""

    def __init__(self, node: VMNode) -> None:
        self.config = node.root / "node.toml"
        paths = node.paths
        self.config.write_text(f'[paths]\nrun = "{paths.run}"\ndata = "{paths.data}"\n')

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "qemu_node", "--config", str(self.config), "vm", *arguments]

    async def run(self, *arguments: str, stdin: bytes = b"") -> Completed:
        argv = self.argv(*arguments)
        return await command.run(
            argv, stdin=stdin, timeout_s=TIMEOUT_S, env=dict(os.environ), check=False
        )

    async def ok(self, *arguments: str, stdin: bytes = b"") -> bytes:
        done = await self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


@pytest.fixture
def image(small_guest_image: Path) -> Path:
    return small_guest_image


@pytest.fixture
def cli(node: VMNode) -> CommandLine:
    return CommandLine(node)


async def boot(node: VMNode, user_data: str = "") -> VM:
    vm = await node.start(node.request(user_data=user_data))
    await node.printed(READY)
    await vm.agent.ping(timeout_s=TIMEOUT_S)
    return vm


async def has_address(vm: VM) -> None:
    """Return once the guest has one: its DHCP client runs beside the rest of its boot."""
    async with asyncio.timeout(TIMEOUT_S):
        while not any(
            "10.0.2.15" in interface.addresses
            for interface in await vm.agent.network_interfaces(timeout_s=TIMEOUT_S)
        ):
            await asyncio.sleep(0.2)


class LoggedNode(VMNode):
    """A node that keeps consoles in files as well, as the driver does."""

    def _open_logs(self, alloc_dir: Path, task_name: str) -> TaskLogs:
        logs = super()._open_logs(alloc_dir, task_name)
        file = TaskLog(alloc_dir / "alloc" / "logs", task_name, "stdout", 3, 4096)

        def write(data: bytes) -> None:
            file.write(data)
            logs.stdout(data)

        return TaskLogs(stdout=write, stderr=logs.stderr, close=logs.close)


class Terminal:
    """A terminal with an operator at it, who reads and types."""

    def __init__(self) -> None:
        self._fd, self.slave = pty.openpty()
        os.set_blocking(self._fd, False)
        self.settings = termios.tcgetattr(self.slave)
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def _look(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            self.seen += os.read(self._fd, 65536)
        return self.seen

    async def shows(self, text: bytes) -> None:
        await until(self._look, lambda seen: text in seen, repr(text))

    def close(self) -> None:
        os.close(self._fd)
        os.close(self.slave)


async def test_an_operator_sees_and_uses_a_running_vm(
    node: VMNode, cli: CommandLine, tmp_path: Path
) -> None:
    vm = await boot(node)
    await has_address(vm)
    (listed,) = json.loads(await cli.ok("list", "--json", "--wide"))
    assert (listed["vm_id"], listed["state"]) == (vm.record.vm_id, "running")
    assert "10.0.2.15" in listed["addresses"]

    shown = json.loads(await cli.ok("show", "vm", "--json"))
    assert shown["qemu"]["run_state"] == "running"
    assert shown["agent"]["host_name"] == vm.record.hostname

    done = await cli.run("exec", "vm", "--", "sh", "-c", "cat; echo no >&2; exit 7", stdin=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in", b"no\n")

    picture = tmp_path / "screen.png"
    await cli.ok("screenshot", "vm", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_mode & 0o777 == 0o600
    assert vm.exit is None


async def test_the_exit_status_of_exec_tells_what_became_of_the_command(
    node: VMNode, cli: CommandLine
) -> None:
    vm = await boot(node)
    statuses = {
        ("vm", "--", "sh", "-c", "exit 7"): 7,
        ("vm", "--", "sh", "-c", "kill -9 $$"): 128 + signal.SIGKILL,
        ("--timeout", "1s", "vm", "--", "sleep", "60"): 124,
        ("vm",): 125,
        ("wm", "--", "id"): 125,
        ("vm", "--", "/etc/passwd"): 126,
        ("vm", "--", "no-such-program"): 127,
    }
    seen = {arguments: (await cli.run("exec", *arguments)).returncode for arguments in statuses}
    assert seen == statuses
    assert vm.exit is None


async def test_a_mistyped_vm_is_answered_with_the_nearest(node: VMNode, cli: CommandLine) -> None:
    vm = await node.start(node.request(task="web"))
    done = await cli.run("show", vm.record.vm_id.replace("web", "wbe"))
    assert done.returncode == 1
    assert f"did you mean {vm.record.vm_id}?" in done.stderr.decode()


async def test_the_console_is_the_guests_terminal_and_gives_back_the_operators(
    node: VMNode, cli: CommandLine, tmp_path: Path
) -> None:
    vm = await boot(node, REPEATER)
    terminal = Terminal()
    try:
        with (tmp_path / "stderr").open("wb") as stderr:
            child = command.spawn(
                cli.argv("console", "vm"),
                stdin_fd=terminal.slave,
                stdout_fd=terminal.slave,
                stderr_fd=stderr.fileno(),
                env=dict(os.environ),
            )
        words = tmp_path / "stderr"
        await until(words.read_text, lambda text: "Ctrl-] leaves" in text, "greeting")
        # Typed again until the console has taken over the terminal; what came before is dropped.
        async with asyncio.timeout(TIMEOUT_S):
            while b"heard knock" not in terminal._look():
                terminal.type(b"knock\r")
                await asyncio.sleep(0.5)
        second = await cli.run("console", "--no-input", "vm")
        assert second.returncode == 1
        assert b"somebody else has the console" in second.stderr
        terminal.type(b"\x03still here\r")
        await terminal.shows(b"still here")
        terminal.type(b"\x1d")
        code = await until(child.exit_status, lambda code: code is not None, "end of the console")
        assert code == 0, words.read_text()
        assert termios.tcgetattr(terminal.slave) == terminal.settings
    finally:
        terminal.close()
    assert vm.exit is None
    await node.printed("heard knock")


async def test_a_gentle_stop_is_an_ordinary_end_for_the_driver(
    node: VMNode, cli: CommandLine
) -> None:
    vm = await boot(node)
    stopped = json.loads(await cli.ok("stop", "vm", "--timeout", "90s", "--json"))
    assert stopped == {"vm_id": vm.record.vm_id, "by": "guest-agent", "waits_for_driver": False}
    assert await node.ended(vm) == POWERED_OFF


async def test_a_stop_by_force_is_told_to_nomad_as_one_from_outside(
    node: VMNode, cli: CommandLine
) -> None:
    vm = await node.start(node.request())
    await cli.ok("stop", "vm", "--now")
    ended = await node.ended(vm)
    assert ended.is_failure
    assert "from outside" in (ended.reason or "")


async def test_a_log_is_followed_over_a_reset_to_the_end_of_the_vm(
    short_tmp_path: Path, image: Path, tmp_path: Path
) -> None:
    node = LoggedNode(short_tmp_path, image)
    cli = CommandLine(node)
    try:
        vm = await boot(node)
        shown = tmp_path / "shown"
        words = tmp_path / "words"
        with shown.open("wb") as stdout, words.open("wb") as stderr:
            follower = command.spawn(
                cli.argv("logs", "-f", "vm"),
                stdout_fd=stdout.fileno(),
                stderr_fd=stderr.fileno(),
                env=dict(os.environ),
            )
        await until(shown.read_text, lambda text: READY in text, READY)
        last = (await cli.ok("logs", "-n", "1", "vm")).decode()
        assert last
        assert shown.read_text().endswith(last)

        assert json.loads(await cli.ok("reset", "--json", "vm")) == {"vm_id": vm.record.vm_id}
        await node.printed(READY, times=2)
        assert vm.exit is None

        await vm.agent.shutdown()
        assert await node.ended(vm) == POWERED_OFF
        code = await until(follower.exit_status, lambda code: code is not None, "end of the log")
        assert code == 0, words.read_text()
        assert shown.read_text() == node.console["vm"].decode()
        assert words.read_text() == "the VM has ended\n"
    finally:
        await node.close()


async def crashed(driver: VMNode, vm: VM) -> None:
    """Let a driver's process end as SIGKILL would: its lock and connections go, its VM stays."""
    assert vm._lock is not None
    vm._lock.release()
    await driver.tasks.aclose()
    await vm._qemu.disconnect()


async def test_a_vm_without_a_driver_is_shut_down_and_kept_for_the_next_one_to_report(
    node: VMNode, cli: CommandLine
) -> None:
    first = VMNode(node.root, node.image)
    vm = await boot(first)
    await crashed(first, vm)
    try:
        (listed,) = json.loads(await cli.ok("list", "--json"))
        assert listed["state"] == "unmanaged"
        stopped = json.loads(await cli.ok("stop", "vm", "--timeout", "90s", "--json"))
        assert stopped["waits_for_driver"] is True
        assert await node.ended(await node.supervisor.recover(vm.state)) == POWERED_OFF
    finally:
        pidfd.send_signal(vm.process, signal.SIGKILL)


async def test_a_reset_does_not_lose_the_end_of_a_guest_whose_driver_is_away(
    node: VMNode, cli: CommandLine
) -> None:
    first = VMNode(node.root, node.image)
    vm = await boot(first)
    await crashed(first, vm)
    try:
        unlogged = first.console["vm"].decode()
        await cli.ok("stop", "vm", "--timeout", "90s")
        refused = await cli.run("reset", "vm")
        assert refused.returncode == 1
        assert b"the guest powered off; a reset would lose that" in refused.stderr
        # What the guest printed on its way down waits for the next driver.
        last = (await cli.ok("logs", "vm")).decode()
        assert last
        assert last not in unlogged
        assert await node.ended(await node.supervisor.recover(vm.state)) == POWERED_OFF
        assert node.console["vm"].decode().startswith(last)
    finally:
        pidfd.send_signal(vm.process, signal.SIGKILL)
