"""What this host's QEMU is and what the host lets it use.

Owns finding the binary, its version, and the choice of disk I/O. Does not own whether a guest runs
under it (`proof`) nor firmware (`firmware`).
"""

import ctypes
import errno
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import MissingPartError
from qemu_node.host.process.command import SAFE_ENV, ProcessError, run
from qemu_node.qemu.spec import DiskAio, QemuVersion

log = logging.getLogger(__name__)

MINIMUM_VERSION = QemuVersion(major=7, minor=2)
"""The oldest QEMU that the command line was tried with: Debian 12's."""

_PACKAGE_HINT = "apt install qemu-system-x86"
_VERSION = re.compile(r"^QEMU emulator version (\d+)\.(\d+)(?:\.(\d+))?", re.MULTILINE)
_VERSION_TIMEOUT_S = 30.0
_SYS_IO_URING_SETUP = 425  # asm-generic/unistd.h; the same on every architecture since Linux 5.1
_IO_URING_DISABLED = Path("/proc/sys/kernel/io_uring_disabled")


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuBinary:
    """A QEMU that is installed."""

    path: str
    version: QemuVersion


# Version by (path, mtime, size): asking costs 30 ms and an upgrade changes the key.
_versions: dict[tuple[str, int, int], QemuVersion] = {}


def parse_version(text: str) -> QemuVersion:
    """Return the version in what `qemu-system-x86_64 --version` prints.

    Raises:
        MissingPartError: it prints no version of QEMU.
    """
    match = _VERSION.search(text)
    if match is None:
        first = text.strip().partition("\n")[0][:80]
        raise MissingPartError(f"not a QEMU: --version prints {first!r}", hint=_PACKAGE_HINT)
    return QemuVersion(major=int(match[1]), minor=int(match[2]), micro=int(match[3] or 0))


async def find_qemu(binary: str) -> QemuBinary:
    """Return the QEMU called `binary`, a name in the system's PATH or a path.

    Raises:
        MissingPartError: there is none, it does not start, or it is too old.
    """
    path = shutil.which(binary, path=SAFE_ENV["PATH"])
    if path is None:
        raise MissingPartError(f"{binary} is not installed", hint=_PACKAGE_HINT)
    key = _key(path)
    version = _versions.get(key)
    if version is None:
        try:
            done = await run([path, "--version"], timeout_s=_VERSION_TIMEOUT_S)
        except ProcessError as exc:
            raise MissingPartError(f"{path} does not start: {exc}", hint=_PACKAGE_HINT) from exc
        version = parse_version(done.stdout.decode(errors="replace"))
        _versions[key] = version
    if not version.at_least(MINIMUM_VERSION.major, MINIMUM_VERSION.minor):
        raise MissingPartError(
            f"{path} is QEMU {version}; VMs need {MINIMUM_VERSION} or newer", hint=_PACKAGE_HINT
        )
    return QemuBinary(path=path, version=version)


def _key(path: str) -> tuple[str, int, int]:
    info = Path(path).stat()
    return path, info.st_mtime_ns, info.st_size


def choose_aio() -> DiskAio:
    """Return `io_uring` where an unprivileged QEMU may use it, else `threads`.

    Containers often deny the system call and hardened hosts switch it off by sysctl; QEMU would
    then refuse to open the disk. Asking has no effect: the kernel checks the permission first, then
    fails with EFAULT at the missing argument (io_uring/io_uring.c).
    """
    try:
        # 1 allows it to privileged users and one group only, which QEMU is neither.
        if _IO_URING_DISABLED.read_text().strip() != "0":
            return DiskAio.THREADS
    except OSError as exc:
        # Kernels before 6.6 have no such switch.
        log.debug("no io_uring switch", extra={"reason": exc.strerror})
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(_SYS_IO_URING_SETUP, 1, None)
    return DiskAio.IO_URING if ctypes.get_errno() == errno.EFAULT else DiskAio.THREADS
