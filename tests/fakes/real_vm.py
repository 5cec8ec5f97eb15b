"""A real QEMU started from a specification, for tests: its files, its sockets, its end."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from qemu_node.host.process.command import Child
from qemu_node.host.process.pidfd import send_signal
from qemu_node.host.sockets import listen_unix
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.format.overlay import write_overlay
from qemu_node.qemu.accel.qemubinary import find_qemu
from qemu_node.qemu.cmdline import build_argv
from qemu_node.qemu.firmware import Firmware, ensure_varstore
from qemu_node.qemu.spec import BaseImage, PflashFirmware, SocketFds, UserNic, VMSpec
from qemu_node.qemu.startqemu import start_qemu
from qemu_node.units import GIB, MIB

UNPRIVILEGED_UID = 65_532 if os.geteuid() == 0 else None
"""The user QEMU runs as in tests; None: ours, we are not root."""

_SOCKETS = ("qmp", "monitor", "console", "qga", "serial")


@dataclass(frozen=True, slots=True, kw_only=True)
class RealVM:
    """A QEMU that was started, and where its files are."""

    child: Child
    spec: VMSpec
    directory: Path
    run: Path

    def stderr(self) -> str:
        return (self.directory / "qemu.log").read_text(errors="replace")

    async def wait(self) -> int:
        """Return the exit code once QEMU has ended."""
        for _ in range(3000):
            status = self.child.exit_status()
            if status is not None:
                return status
            await asyncio.sleep(0.02)
        raise AssertionError("QEMU did not end within a minute")


def make_vm_directory(name: str) -> Path:
    """Return a new directory that QEMU's user owns and can reach, unlike pytest's tmp_path."""
    parent = Path(tempfile.mkdtemp(prefix="qemu-node-test-"))
    parent.chmod(0o755)
    for directory in (parent / name, run_directory(parent / name)):
        directory.mkdir()
        if UNPRIVILEGED_UID is not None:
            os.chown(directory, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    return parent / name


def run_directory(directory: Path) -> Path:
    """Return where a VM's sockets are: their paths have to be short, whatever its own name is."""
    return directory.parent / "run"


def prepare(spec: VMSpec, directory: Path, firmware: Firmware | None) -> VMSpec:
    """Make the files of a VM in `directory` and return `spec` with their paths."""
    owner = None if UNPRIVILEGED_UID is None else (UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    base = directory / "base.raw"
    base.touch()
    os.truncate(base, 1 * GIB)
    overlay = directory / "overlay.qcow2"
    with base.open("rb") as file:
        write_overlay(
            overlay,
            base=base,
            base_fd=file.fileno(),
            base_format=ImageFormat.RAW,
            virtual_size_bytes=1 * GIB,
            owner=owner,
        )
    drive = directory / "config-drive.iso"
    drive.write_bytes(bytes(MIB))
    pflash: PflashFirmware | None = None
    if firmware is not None:
        varstore = directory / "varstore.fd"
        ensure_varstore(firmware.varstore_template, varstore, owner)
        pflash = PflashFirmware(code=firmware.code, varstore=varstore, is_secure=firmware.is_secure)
    return replace(
        spec,
        pflash=pflash,
        memory_bytes=256 * MIB,
        overlay=overlay,
        base=BaseImage(path=base, is_qcow2=False),
        config_drive=drive,
        # A TAP is the test's own to make: nothing is open under the specification's numbers.
        nics=tuple(replace(nic, forwards=()) for nic in spec.nics if isinstance(nic, UserNic)),
        vnc_socket=run_directory(directory) / f"{directory.name[:16]} vnc.sock",
        serial_log=directory / "serial.log",
    )


@asynccontextmanager
async def running(spec: VMSpec, directory: Path) -> AsyncGenerator[RealVM]:
    """Start `spec`, whose files are in `directory`, as the product does; kill it in the end."""
    qemu = await find_qemu("qemu-system-x86_64")
    owner = None if UNPRIVILEGED_UID is None else (UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    run = run_directory(directory)
    fds = {name: listen_unix(run / f"{name}.sock", owner=owner) for name in _SOCKETS}
    spec = replace(spec, sockets=SocketFds(**fds))
    base_fd = None if spec.base is None else spec.base.fd
    try:
        child = await start_qemu(
            build_argv(spec, qemu.path, qemu.version),
            uid=UNPRIVILEGED_UID,
            gid=UNPRIVILEGED_UID,
            stderr_path=directory / "qemu.log",
            pass_fds=(*fds.values(), *(() if base_fd is None else (base_fd,))),
        )
    finally:
        for fd in fds.values():
            os.close(fd)
    vm = RealVM(child=child, spec=spec, directory=directory, run=run)
    try:
        yield vm
    finally:
        send_signal(child.process, signal.SIGKILL)
        await vm.wait()
        shutil.rmtree(directory.parent)
