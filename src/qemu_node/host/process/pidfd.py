"""What is done to exactly one process, through its pidfd: signals, waiting, copying descriptors.

Owns every pidfd of the package. A `Hold` keeps one open, so that a driver that has as many files
open as it may can still end its VMs; the functions open one for the duration of the call. Does not
own what a copied descriptor is for.
"""

import asyncio
import ctypes
import errno
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Self

from qemu_node.host.concurrency.flag import Flag
from qemu_node.host.process.identity import ProcessId, is_alive, read_stat

_PIDFD_GETFD = 438  # the same for all architectures: include/uapi/asm-generic/unistd.h, Linux 5.6

_LOOKED_AT_MAX = 1024


class Hold:
    """A pidfd of exactly one process, which may have ended already. For `with`."""

    def __init__(self, process: ProcessId) -> None:
        """Open the pidfd.

        Raises:
            OSError: we have too many files open.
        """
        self.pidfd = _open(process)
        """None if the process has ended and was reaped."""

    def send(self, signum: signal.Signals) -> bool:
        """Send `signum`; False if the process is gone."""
        if self.pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(self.pidfd, signum)
        except ProcessLookupError:
            return False
        return True

    async def wait_gone(self) -> None:
        """Wait until the process, our child or not, has ended. Cancelling is harmless."""
        if self.pidfd is None:
            return
        loop = asyncio.get_running_loop()
        gone = Flag()
        loop.add_reader(self.pidfd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self.pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def _open(process: ProcessId) -> int | None:
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as exc:
        # EINVAL, ENOENT on newer kernels (seen on 6.18): a thread of another process has this pid.
        if exc.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return None
        raise
    # The pidfd pins the process that has the pid now; the start time tells whether it is ours. A
    # zombie counts: only its first thread may have ended, and the others may still hold files.
    fields = read_stat(process.pid)
    if fields is not None and int(fields[19]) == process.start_time:
        return pidfd
    os.close(pidfd)
    return None


def send_signal(process: ProcessId, signum: signal.Signals) -> bool:
    """Send `signum` to exactly this process; False if it is gone, or a zombie."""
    with Hold(process) as hold:
        return is_alive(process) and hold.send(signum)


async def wait_gone(process: ProcessId) -> None:
    """Wait until `process`, our child or not, has ended. Cancelling is harmless."""
    with Hold(process) as hold:
        await hold.wait_gone()


def copy_descriptors(process: ProcessId, device: Path, most: int) -> list[int]:
    """Return copies of the descriptors that `process` has of a device; they are close-on-exec.

    At most `most`, and only of the process's first 1024 descriptors: a hostile process may open
    hundreds of thousands to use up our time and our open files.

    Empty if the process is gone, or if we may not look into it. That takes root, or its user and a
    ptrace scope that allows it (man 2 pidfd_getfd).
    """
    copies: list[int] = []
    # OSError: the process has ended meanwhile, or we may not look into it.
    with Hold(process) as hold, suppress(OSError):
        wanted = device.stat().st_rdev
        with os.scandir(f"/proc/{process.pid}/fd") as links:
            for link in islice(links, _LOOKED_AT_MAX):
                # By name first: a stat of the file itself may wait for a server.
                if len(copies) < most and _target(link) == str(device):
                    copies += _copy(hold, int(link.name), wanted)
    return copies


def close_descriptors(descriptors: Iterable[int]) -> None:
    """Close descriptors. Closing a device's may block: use a thread."""
    for descriptor in descriptors:
        os.close(descriptor)


def _target(link: "os.DirEntry[str]") -> str:
    with suppress(OSError):
        return str(Path(link).readlink())
    return ""


def _copy(hold: Hold, descriptor: int, device_number: int) -> list[int]:
    """Return one copy; empty if the process has closed or replaced the descriptor meanwhile."""
    if hold.pidfd is None:
        return []
    copy: int = ctypes.CDLL(None).syscall(_PIDFD_GETFD, hold.pidfd, descriptor, 0)
    if copy < 0:
        return []
    if os.fstat(copy).st_rdev == device_number:
        return [copy]
    os.close(copy)
    return []
