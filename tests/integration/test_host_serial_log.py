"""The way of a guest's output against a real writer, a real QEMU, and a driver that is killed."""

import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import qemu_node
from qemu_node.host.process import command, pidfd
from qemu_node.host.process.command import Child
from qemu_node.vm.output.serial import SerialLog

PATIENCE_S = 120.0
MIB = 1 << 20
LINES = 80_000

# The guest: appends numbered lines of changing length, in pieces that do not end with the lines.
WRITER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
text = b"".join(b"<%06d>%s\\r\\n" % (n, b"." * (n % 97)) for n in range(int(sys.argv[2])))
for begin in range(0, len(text), 5003):
    os.write(fd, text[begin : begin + 5003])
    time.sleep(0.003)
"""

# The driver: pumps until it is killed. Its sink is a file that it appends to, as a task's log is.
READER = """
import os, sys, time
from qemu_node.vm.output.console_log import ConsolePump
from qemu_node.vm.output.console_log import TokenBucket
from qemu_node.vm.output.serial import SerialLog
from qemu_node.vm.output.textfilter import TerminalFilter
out = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
pump = ConsolePump(
    SerialLog(__import__("pathlib").Path(sys.argv[1])),
    TerminalFilter(),
    TokenBucket(1 << 30, 1 << 30),
    lambda data: os.write(out, data),
)
while True:
    pump.poll()
    time.sleep(0.0005)
"""


@pytest.fixture
def python() -> Iterator[Callable[..., Child]]:
    """Start Python scripts that end with the test."""
    children: list[Child] = []
    source = Path(qemu_node.__file__).parents[1]
    env = command.SAFE_ENV | {"PYTHONPATH": str(source)}

    def start(script: str, *args: object) -> Child:
        argv = [sys.executable, "-c", script, *map(str, args)]
        child = command.spawn(argv, stderr_fd=2, env=env)
        children.append(child)
        return child

    yield start
    for child in children:
        kill(child)


def kill(child: Child) -> None:
    pidfd.send_signal(child.process, signal.SIGKILL)
    eventually(lambda: child.exit_status() is not None)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


def test_a_driver_killed_at_any_point_loses_no_line(
    tmp_path: Path, python: Callable[..., Child]
) -> None:
    serial, logged = tmp_path / "serial.log", tmp_path / "logged"
    serial.touch()
    logged.touch()
    chance = random.Random(7)
    writer = python(WRITER, serial, LINES)
    kills = 0
    while writer.exit_status() is None or kills < 8:
        reader = python(READER, serial, logged)
        before = logged.stat().st_size
        # Killed in the middle of its work, not while Python is still starting.
        eventually(lambda before=before: logged.stat().st_size > before or not pending(serial))  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.1))
        kill(reader)
        kills += 1
    assert writer.exit_status() == 0
    reader = python(READER, serial, logged)
    eventually(lambda: not pending(serial))
    kill(reader)
    seen = {int(number) for number in re.findall(rb"<(\d{6})>", logged.read_bytes())}
    assert seen == set(range(LINES))
    assert b"\r" not in logged.read_bytes()


def pending(path: Path) -> int:
    log = SerialLog(path)
    return log.pending_bytes()


def test_disk_use_stays_bounded_while_a_writer_goes_on(
    tmp_path: Path, python: Callable[..., Child]
) -> None:
    path = tmp_path / "serial.log"
    path.touch()
    log = SerialLog(path)
    writer = python(WRITER, path, 300_000)
    total = 0
    deadline = time.monotonic() + PATIENCE_S
    while writer.exit_status() is None or log.pending_bytes():
        assert time.monotonic() < deadline
        data = log.read_new(MIB)
        log.consume(len(data))
        total += len(data)
        assert path.stat().st_blocks * 512 <= log.pending_bytes() + 3 * MIB
    assert total == path.stat().st_size > 10 * MIB


@pytest.mark.needs_qemu
def test_what_a_real_guest_prints_is_read_and_its_space_given_back(tmp_path: Path) -> None:
    path = tmp_path / "serial.log"
    path.touch()
    os.truncate(path, 3 * MIB)
    # fmt: off
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", "pc,accel=tcg", "-m", "16", "-no-reboot", "-boot", "reboot-timeout=1",
        "-chardev", f"null,id=serial,logfile={path},logappend=on",
        # SeaBIOS tells this port what it does: a guest without a disk that prints.
        "-device", "isa-debugcon,iobase=0x402,chardev=serial",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    # fmt: on
    words = os.open(tmp_path / "words", os.O_WRONLY | os.O_CREAT, 0o600)
    child = command.spawn(argv, stderr_fd=words)
    os.close(words)
    log = SerialLog(path)
    printed = b""
    deadline = time.monotonic() + PATIENCE_S
    while child.exit_status() is None or log.pending_bytes():
        assert time.monotonic() < deadline
        data = log.read_new(100)
        log.consume(len(data))
        printed += data
    assert child.exit_status() == 0, (tmp_path / "words").read_text()
    assert printed.startswith(b"SeaBIOS (version")
    assert b"hard reboot" in printed
