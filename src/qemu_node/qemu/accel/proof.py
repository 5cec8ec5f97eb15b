"""Proof that an accelerator runs guests on this host: a short guest of the product's own flags.

Owns starting that guest and watching it. Does not own what follows, nor what is remembered
(`accelerator`).

Nothing simpler proves it: a machine can have /dev/kvm, accept KVM_CREATE_VM and still abort QEMU
or kill every guest at its first instructions. The proof is firmware that writes to the serial port.
"""

import asyncio
import grp
import logging
import os
import re
import signal
import stat
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.tree import remove_tree
from qemu_node.host.process.command import Child
from qemu_node.host.process.exitstatus import describe_exit, with_last_words
from qemu_node.host.process.pidfd import send_signal
from qemu_node.host.sockets import listen_unix
from qemu_node.qemu.accel.qemubinary import QemuBinary
from qemu_node.qemu.cmdline import build_argv
from qemu_node.qemu.firmware import Firmware, ensure_varstore
from qemu_node.qemu.spec import (
    Accelerator,
    DiskAio,
    FirmwareMode,
    Hardware,
    OsFamily,
    PflashFirmware,
    SocketFds,
    VMSpec,
)
from qemu_node.qemu.startqemu import start_qemu
from qemu_node.units import MIB

log = logging.getLogger(__name__)

KVM_DEVICE = Path("/dev/kvm")

# Firmware writes its first byte after 2 to 5 s under TCG on two idle cores, and after more than
# 90 s in a busy machine that is emulated itself; if it writes nothing under KVM, the guest hangs.
_TIMEOUT_S = {Accelerator.KVM: 20.0, Accelerator.TCG: 240.0}
_POLL_S = 0.1
_KILL_TIMEOUT_S = 10.0
_GUEST_RAM_BYTES = 256 * MIB
_TAIL_BYTES = 600
# What QEMU prints when KVM cannot go on (kvm_handle_internal_error); it stays alive then.
_INTERNAL_ERROR = "KVM internal error"
_LOG_PREFIX = re.compile(r"^\S+Z proof qemu-system-\w+: ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorProof:
    """Whether guests run under an accelerator here."""

    accelerator: Accelerator
    works: bool
    problem: str = ""
    """Why not: one plain sentence, the same each time."""
    detail: str = ""
    """What QEMU said about it."""

    def explain(self) -> str:
        """Return problem and detail, on one line."""
        return f"{self.problem}: {self.detail}" if self.detail else self.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofGuest:
    """What a proof needs of the node."""

    qemu: QemuBinary
    firmware: Firmware | None
    """The firmware VMs use by default; None: SeaBIOS."""
    work_dir: Path
    """Where the guest's files are for as long as it runs; its directories let `uid` pass."""
    uid: int | None
    """The unprivileged user it runs as; None: ours."""
    kvm_gid: int | None
    """Group that may open /dev/kvm, given to it as to every VM."""


async def prove(accelerator: Accelerator, guest: ProofGuest) -> AcceleratorProof:
    """Return whether guests run under `accelerator`, having tried it.

    Raises:
        HostError: it could not be tried, as when the disk is full.
    """
    problem, detail = await _try(accelerator, guest)
    return AcceleratorProof(
        accelerator=accelerator, works=not problem, problem=problem, detail=detail
    )


async def _try(accelerator: Accelerator, guest: ProofGuest) -> tuple[str, str]:
    """Return what is wrong, "" for nothing, and QEMU's words about it."""
    if accelerator is Accelerator.TCG:
        words = await _run(accelerator, guest, guest.uid)
        return ("", "") if words is None else ("TCG does not run guests", words)
    if not os.access(KVM_DEVICE, os.F_OK):
        return (
            f"{KVM_DEVICE} does not exist: virtualization is off in the machine's firmware, or "
            "kvm_intel or kvm_amd is not loaded",
            "",
        )
    is_permitted = _may_open(KVM_DEVICE, guest)
    # Without permission only root's proof tells whether giving it would help at all.
    if is_permitted or os.geteuid() == 0:
        words = await _run(accelerator, guest, guest.uid if is_permitted else None)
        if words is not None:
            return f"{KVM_DEVICE} exists but does not run guests", words
    if not is_permitted:
        return f"{KVM_DEVICE} exists but {_permission_problem(KVM_DEVICE, guest)}", ""
    return "", ""


def _permission_problem(device: Path, guest: ProofGuest) -> str:
    info = device.stat()
    return permission_problem(info.st_mode, info.st_gid, guest.uid)


def permission_problem(mode: int, gid: int, uid: int | None) -> str:
    """Return who may not open a device with this `mode` and `gid`, and what helps.

    `uid` is that of the VMs' users; None where VMs run as ourselves.
    """
    group_may = mode & stat.S_IRGRP and mode & stat.S_IWGRP
    if uid is None and group_may and gid != 0:
        return (
            f"you may not open it: run `sudo usermod -aG {_group_name(gid)} $USER` and log in again"
        )
    return "VMs may not open it: give it to group kvm, mode 0660"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _may_open(device: Path, guest: ProofGuest) -> bool:
    """Tell whether a VM's user may open `device`."""
    if guest.uid is None:
        return os.access(device, os.R_OK | os.W_OK)
    info = device.stat()
    if info.st_mode & stat.S_IROTH and info.st_mode & stat.S_IWOTH:
        return True
    is_group = info.st_gid == guest.kvm_gid
    return is_group and bool(info.st_mode & stat.S_IRGRP and info.st_mode & stat.S_IWGRP)


async def _run(accelerator: Accelerator, guest: ProofGuest, uid: int | None) -> str | None:
    """Run one guest until its firmware speaks; return what went wrong, None for nothing."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="proof-", dir=guest.work_dir))
    except OSError as exc:
        raise HostError(f"cannot make a directory in {guest.work_dir}: {exc.strerror}") from exc
    try:
        serial_log, stderr_path = directory / "serial.log", directory / "qemu.log"
        with ExitStack() as stack:
            spec = _spec(accelerator, guest, directory, uid, stack)
            child = await start_qemu(
                build_argv(spec, guest.qemu.path, guest.qemu.version),
                uid=uid,
                gid=uid,
                groups=() if guest.kvm_gid is None else (guest.kvm_gid,),
                stderr_path=stderr_path,
                pass_fds=_fds(spec.sockets),
                is_tied=True,
            )
        try:
            return await _watch(child, serial_log, stderr_path, _TIMEOUT_S[accelerator])
        finally:
            await _end(child)
    finally:
        await to_the_end(remove_tree, directory)


def _spec(
    accelerator: Accelerator,
    guest: ProofGuest,
    directory: Path,
    uid: int | None,
    stack: ExitStack,
) -> VMSpec:
    """Make the guest's files and describe it; `stack` closes our copies of its sockets."""
    owner = None if uid is None else (uid, uid)
    if uid is not None:
        os.chown(directory, uid, uid)
    fds = {}
    for name in ("qmp", "monitor", "console", "qga", "serial"):
        fds[name] = listen_unix(directory / f"{name}.sock", owner=owner)
        stack.callback(os.close, fds[name])
    pflash: PflashFirmware | None = None
    if guest.firmware is not None:
        varstore = directory / "varstore.fd"
        ensure_varstore(guest.firmware.varstore_template, varstore, owner)
        pflash = PflashFirmware(
            code=guest.firmware.code, varstore=varstore, is_secure=guest.firmware.is_secure
        )
    return VMSpec(
        vm_id="proof",
        uuid="00000000-0000-4000-8000-000000000000",
        hardware=Hardware(
            os=OsFamily.LINUX,
            firmware=FirmwareMode.BIOS if pflash is None else FirmwareMode.SECURE_BOOT,
            vcpus=1,
            merge=False,
            watchdog=False,
        ),
        accelerator=accelerator,
        pflash=pflash,
        memory_bytes=_GUEST_RAM_BYTES,
        overlay=None,
        base=None,
        config_drive=None,
        nics=(),
        sockets=SocketFds(**fds),
        vnc_socket=directory / "vnc.sock",
        serial_log=directory / "serial.log",
        aio=DiskAio.THREADS,
        # SeaBIOS writes to the serial port only where it is told that there is no screen.
        args=() if pflash is not None else ("-machine", "graphics=off"),
    )


def _fds(sockets: SocketFds) -> Sequence[int]:
    return (sockets.qmp, sockets.monitor, sockets.console, sockets.qga, sockets.serial)


async def _watch(child: Child, serial_log: Path, stderr_path: Path, timeout_s: float) -> str | None:
    """Wait for the first word of the firmware; return what came instead."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while asyncio.get_running_loop().time() < deadline:
        status = child.exit_status()
        words = _first_words(stderr_path)
        if status is not None:
            return with_last_words(f"QEMU {describe_exit(status)}", words)
        if _INTERNAL_ERROR in words:
            return f"QEMU stopped the guest: {words}"
        if _has_content(serial_log):
            return None
        await asyncio.sleep(_POLL_S)
    problem = f"its firmware said nothing within {timeout_s:g} s"
    return with_last_words(problem, _first_words(stderr_path))


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _first_words(stderr_path: Path) -> str:
    """Return the beginning of what QEMU said, on one line: the registers follow the cause."""
    text = stderr_path.read_bytes().decode(errors="replace")
    words = "; ".join(line.strip() for line in _LOG_PREFIX.sub("", text).splitlines() if line)
    return words[:_TAIL_BYTES]


async def _end(child: Child) -> None:
    """Kill the guest and reap it."""
    send_signal(child.process, signal.SIGKILL)
    # Polled: while its last threads exit, a process is a zombie already but cannot be reaped yet.
    for _ in range(int(_KILL_TIMEOUT_S / _POLL_S)):
        if child.exit_status() is not None:
            return
        await asyncio.sleep(_POLL_S)
    log.warning("proof guest does not end", extra={"pid": child.process.pid})


def proof_key(guest: ProofGuest) -> str:
    """Return what a proof depends on, as text."""
    parts = [
        Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        os.uname().release,
        _stamp(Path(guest.qemu.path)),
        str(guest.qemu.version),
        "seabios" if guest.firmware is None else _stamp(guest.firmware.code),
        _stamp(KVM_DEVICE),
        f"uid={'own' if guest.uid is None else 'vm'} kvm_gid={guest.kvm_gid}",
    ]
    return " | ".join(parts)


def _stamp(path: Path) -> str:
    try:
        info = path.stat()
    except OSError:
        return f"{path} absent"
    owner = f"{info.st_uid}:{info.st_gid}:{info.st_mode:o}"
    # Opening a device changes its mtime, which says nothing here.
    return f"{path} {owner}" + (
        "" if stat.S_ISCHR(info.st_mode) else f" {info.st_mtime_ns} {info.st_size}"
    )
