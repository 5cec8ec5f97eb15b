"""Signals to exactly one process, and waiting for its end, through a pidfd.

Owns every pidfd of the package. `send_signal` and `wait_gone` open one for a moment; a `Hold` keeps
it, so that a driver that has as many files open as it may can still end the VMs that it holds.
"""

import asyncio
import errno
import os
import signal
from types import TracebackType
from typing import Self

from qemu_node.host.process.identity import ProcessId, is_alive, read_stat


def open_pidfd(process: ProcessId) -> int | None:
    """Return a pidfd of exactly this process, None where it has ended and was reaped."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as exc:
        # EINVAL, ENOENT on newer kernels (seen on 6.18): a thread of somebody else has the number.
        if exc.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return None
        raise
    # The pidfd pins whoever has the pid now; comparing afterwards rules out a newcomer. A zombie
    # counts: it may be the first thread alone that has ended, and the others still hold files.
    fields = read_stat(process.pid)
    if fields is not None and int(fields[19]) == process.start_time:
        return pidfd
    os.close(pidfd)
    return None


def send_signal(process: ProcessId, signum: signal.Signals) -> bool:
    """Send `signum` to exactly this process; False where it is gone already."""
    pidfd = open_pidfd(process)
    if pidfd is None:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


async def wait_gone(process: ProcessId) -> None:
    """Return once `process` has ended, be it our child or not. Cancelling is harmless."""
    pidfd = open_pidfd(process)
    if pidfd is None:
        return
    try:
        await until_readable(pidfd)
    finally:
        os.close(pidfd)


async def until_readable(pidfd: int) -> None:
    """Return once the process of a pidfd has ended. Cancelling is harmless."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)


class Hold:
    """A hold on exactly one process, which may have ended already. For `with`."""

    def __init__(self, process: ProcessId) -> None:
        """Take hold.

        Raises:
            OSError: we have too many files open.
        """
        self._pidfd = open_pidfd(process)

    def send(self, signum: signal.Signals) -> bool:
        """Send `signum`; False where the process is gone already."""
        if self._pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError:
            return False
        return True

    async def wait_gone(self) -> None:
        """Return once the process has ended, be it our child or not. Cancelling is harmless."""
        if self._pidfd is not None:
            await until_readable(self._pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
