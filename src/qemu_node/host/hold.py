"""A hold on a process: its end and signals to it, with nothing left to open.

Owns a pidfd for as long as somebody looks after the process. A driver that has as many files open
as it may can still end the VMs that it holds. For a single signal there is `process.send_signal`.
"""

import os
import signal
from types import TracebackType
from typing import Self

from qemu_node.host.process import ProcessId, open_pidfd, until_readable


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
