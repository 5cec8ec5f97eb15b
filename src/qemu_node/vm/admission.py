"""Which starts may go on: a few at a time, and none that would use the open files that stops need.

Owns the number of starts that run at once and the reserve of open files. A driver without a free
descriptor can neither signal a VM nor write down its end, so a start is refused long before.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable

from qemu_node.errors import HostError
from qemu_node.host import limits
from qemu_node.host.limits import OpenFiles
from qemu_node.net.portspec import PortSpec, UserPort

BASE_RESERVE = 64
"""For what belongs to no VM: the agent's connection, downloads, the network, reading /proc."""

FILES_OF_A_STOP = 2
"""For each VM: the connection to its guest agent, and the lock that this takes."""

_FILES_OF_A_VM = 3
"""What the driver holds of each: its lock, a pidfd, QMP."""

_FILES_OF_THE_DRIVER = 40

_FILES_OF_A_START = 17
"""Its lock, pidfd and QMP, which it keeps; its image, listening sockets, the launcher's pipes."""

_FILES_OF_A_QUEUE = 2
"""A TAP's and vhost-net's; a stop copies the first."""

_AT_ONCE_MIN = 4
_AT_ONCE_PER_CPU = 2


class OpenFilesError(HostError):
    """A start would take files that are kept for VMs that end; nothing was begun."""


def vms_within(limit: int) -> int:
    """Return about how many VMs a driver can have that may open `limit` files."""
    for_vms = limit - _FILES_OF_THE_DRIVER - BASE_RESERVE - _FILES_OF_A_START
    return max(0, for_vms // (_FILES_OF_A_VM + FILES_OF_A_STOP))


class Admission:
    """Lets starts go on. One for all VMs of this process."""

    def __init__(
        self,
        count_vms: Callable[[], int],
        *,
        read: Callable[[], OpenFiles] = limits.read_open_files,
        at_once: int | None = None,
    ) -> None:
        """Let `at_once` starts go on at the same time; by default two for each CPU.

        Args:
            count_vms: Returns how many VMs this process manages.
            read: Returns what this process has open.
            at_once: How many starts run at the same time.
        """
        self._count_vms = count_vms
        self._read = read
        cpus = len(os.sched_getaffinity(0))
        self._turns = asyncio.Semaphore(at_once or max(_AT_ONCE_MIN, _AT_ONCE_PER_CPU * cpus))
        self._promised = 0

    def check(self, nics: tuple[UserPort | PortSpec, ...] = ()) -> None:
        """Return if a VM with `nics` leaves enough open files to stop all VMs.

        Raises:
            OpenFilesError: it would not; recoverable, as VMs end.
        """
        reserve = BASE_RESERVE + FILES_OF_A_STOP * self._count_vms()
        try:
            files = self._read()
        except OSError:
            raise _refusal("all files that the driver may open are open", reserve) from None
        if files.free - self._promised - _files_of_start(nics) < reserve:
            raise _refusal(f"{files.used} of {files.limit} files are open", reserve)

    @property
    def is_full(self) -> bool:
        """Whether not even a VM without ports of the bridge may be started."""
        try:
            self.check()
        except OpenFilesError:
            return True
        return False

    @contextlib.asynccontextmanager
    async def turn(self, nics: tuple[UserPort | PortSpec, ...]) -> AsyncGenerator[None]:
        """Wait for a turn and have it for the block: each start in there keeps files open.

        Raises:
            OpenFilesError: see `check`.
        """
        async with self._turns:
            self.check(nics)
            files = _files_of_start(nics)
            # Those that are open already count twice until the turn ends.
            self._promised += files
            try:
                yield
            finally:
                self._promised -= files


def _files_of_start(nics: tuple[UserPort | PortSpec, ...]) -> int:
    queues = sum(nic.queues for nic in nics if isinstance(nic, PortSpec))
    return _FILES_OF_A_START + _FILES_OF_A_QUEUE * queues


def _refusal(found: str, reserve: int) -> OpenFilesError:
    return OpenFilesError(
        f"no more VMs are started: {found}, and {reserve} are kept so that VMs can be stopped",
        hint="raise LimitNOFILE of the agent's service, or its hard limit of open files",
    )
