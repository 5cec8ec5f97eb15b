"""Who manages the network of this node: one process at a time.

Owns the lock that says so. nftables has an owner of its own for a table, but only from Linux 6.10
on, and none for TAPs and VLANs: what a second driver finds it would take for left-overs, and remove
it. Calls block: use a thread.
"""

from pathlib import Path

from qemu_node.host.files import FileLock
from qemu_node.net.errors import NetworkOwnedError

_DIRECTORY = Path("/run")
"""Fixed, unlike `paths.run`: drivers with other paths have the same network."""


class NetworkOwner:
    """The right to manage the network; released by the kernel when this process ends."""

    def __init__(self) -> None:
        self._lock: FileLock | None = None
        self.problem: NetworkOwnedError | None = None
        """Why it could not be had the last time."""

    def acquire(self) -> None:
        """Take it, unless it is ours already.

        Raises:
            NetworkOwnedError: another process has it.
            HostError: the lock file cannot be made.
        """
        if self._lock is not None:
            return
        # A container on this node may see the same /run and have a network of its own.
        namespace = Path("/proc/thread-self/ns/net").stat().st_ino
        lock = FileLock(_DIRECTORY / f"qemu-node-network-{namespace}.lock")
        if not lock.try_acquire():
            self.problem = NetworkOwnedError(
                "VMs cannot use VLANs: another driver manages the network of this node",
                hint=f"end it, or use user mode; it holds {lock.path}",
            )
            raise self.problem
        self._lock, self.problem = lock, None

    def release(self) -> None:
        """Give it up, if it is ours."""
        if self._lock is not None:
            self._lock.path.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
