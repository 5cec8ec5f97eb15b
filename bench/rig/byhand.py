"""The bare loop: a VM's own QEMU command line started again, with nothing around it.

Owns the starts that the driver is compared with: the sockets, the process, QMP's greeting and the
answer to query-status. What the driver does besides (image, overlay, config drive, user, lock,
undo, published state) is not done here: the files are copies of those that the driver made, made
before the clock runs.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.rig.node import BenchDriver, BenchNode
from qemu_node.host.process import command, identity, pidfd
from qemu_node.host.process.command import Child
from qemu_node.host.sockets import listen_unix
from qemu_node.vm.record.record import VMRecord

_QMP_TIMEOUT_S = 60.0
_SOCKETS = ("qmp", "monitor", "console", "serial", "qga")


class ByHand:
    """QEMUs with the command line of one VM of the driver."""

    def __init__(self, node: BenchNode, record: VMRecord, argv: list[str]) -> None:
        self._node = node
        self._argv = argv
        self._data = node.data_dir / "vm" / record.vm_id
        self._run = node.run_dir / "vm" / record.vm_id
        self._template = node.root / "template"
        # The serial log begins behind a hole of terabytes, which a copy would fill.
        shutil.copytree(self._data, self._template, ignore=shutil.ignore_patterns("serial.log"))
        self._started: list[tuple[Child, Path]] = []
        self._count = 0

    @classmethod
    async def of_new_vm(cls, driver: BenchDriver) -> "ByHand":
        """Take the command line of a VM that the driver starts for this, and ends again."""
        vm = await driver.start()
        try:
            return cls(driver.node, vm.record, identity.command_line(vm.process.pid))
        finally:
            await driver.destroy(vm)

    def prepare(self) -> Path:
        """Make the files of the next start."""
        self._count += 1
        directory = self._node.root / "h" / str(self._count)
        shutil.copytree(self._template, directory)
        return directory

    async def start(self, directory: Path) -> float:
        """Start QEMU on the files in `directory`; return the seconds until QMP has answered.

        Raises:
            OSError: QEMU ended instead.
            TimeoutError: it is silent.
        """
        begin = time.perf_counter()
        fds = {name: listen_unix(directory / f"{name}.sock") for name in _SOCKETS}
        try:
            fds["image"] = os.open(self._node.image, os.O_RDONLY | os.O_CLOEXEC)
            fds["log"] = os.open(directory / "words.log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
            child = command.spawn(
                self._argv_for(directory, fds), stderr_fd=fds["log"], pass_fds=tuple(fds.values())
            )
        finally:
            for fd in fds.values():
                os.close(fd)
        self._started.append((child, directory))
        async with asyncio.timeout(_QMP_TIMEOUT_S):
            await _ask_status(directory / "qmp.sock")
        return time.perf_counter() - begin

    async def end_all(self) -> None:
        """Kill every QEMU that was started and remove its files."""
        for child, directory in self._started:
            pidfd.send_signal(child.process, signal.SIGKILL)
            await pidfd.wait_gone(child.process)
            child.exit_status()
            shutil.rmtree(directory)
        self._started.clear()

    def _argv_for(self, directory: Path, fds: dict[str, int]) -> list[str]:
        """Return the VM's argv with its directories and descriptors replaced by ours."""
        argv = []
        for arg in self._argv:
            moved = arg.replace(str(self._data), str(directory)).replace(
                str(self._run), str(directory)
            )
            for name in _SOCKETS:
                if re.match(rf"socket,id={name}\d*,", moved):
                    moved = re.sub(r"fd=\d+", f"fd={fds[name]}", moved)
            argv.append(re.sub(r"^fd=\d+(?=,set=)", f"fd={fds['image']}", moved))
        return argv


@asynccontextmanager
async def by_hand(driver: BenchDriver) -> AsyncGenerator[ByHand]:
    """Give the bare loop for a driver's VMs; what it started is gone in the end."""
    hand = await ByHand.of_new_vm(driver)
    try:
        yield hand
    finally:
        await hand.end_all()


async def _ask_status(path: Path) -> None:
    """Return once QMP has greeted and said what the guest does."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        await reader.readuntil(b"\n")
        for command in ("qmp_capabilities", "query-status"):
            writer.write(json.dumps({"execute": command}).encode() + b"\n")
            # Events may come between; they have no "return".
            while b'"return"' not in await reader.readuntil(b"\n"):
                pass
    except asyncio.IncompleteReadError as exc:
        words = (path.parent / "words.log").read_text(errors="replace")[-500:]
        raise OSError(f"QEMU started by hand ended: {words}") from exc
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
