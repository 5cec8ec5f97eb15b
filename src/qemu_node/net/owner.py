"""Who manages the network of this node: one driver, and it alone as long as its VMs have ports.

Owns the lock that says so. nftables has an owner of its own for a table, but only from Linux 6.10
on, and none for TAPs and VLANs: what a second driver finds it would take for left-overs, and remove
it. Calls block: use a thread.
"""

import os
from collections.abc import Callable
from pathlib import Path

from qemu_node.host.files.atomic import write_atomic
from qemu_node.host.files.lock import FileLock
from qemu_node.net.errors import NetworkOwnedError

_DIRECTORY = Path("/run")
"""Fixed, unlike `paths.run`: drivers with other paths have the same network."""


class NetworkOwner:
    """The right to manage the network; released by the kernel when this process ends.

    Beside the lock stands who had it last. Its VMs go on when it ends, with ports that only it
    knows: until they have ended, nobody else gets the network.
    """

    def __init__(self, identity: str) -> None:
        """Take note of who asks.

        Args:
            identity: What is the same for all drivers of the same VMs: their data directory.
        """
        self._identity = identity
        self._lock: FileLock | None = None
        self.problem: NetworkOwnedError | None = None
        """Why it could not be had the last time."""

    def acquire(self, has_ports: Callable[[], bool]) -> None:
        """Take it, unless it is ours already.

        Args:
            has_ports: Tells whether VMs have ports on the bridge.

        Raises:
            NetworkOwnedError: another driver has it, or had it, and its VMs run.
            HostError: the lock file cannot be made.
        """
        if self._lock is not None:
            return
        # A container on this node may see the same /run and have a network of its own.
        namespace = Path("/proc/thread-self/ns/net").stat().st_ino
        lock = FileLock(_DIRECTORY / f"qemu-node-network-{namespace}.lock")
        if not lock.try_acquire():
            self._refuse(
                "another driver manages the network of this node",
                f"end it, or use user mode; it holds {lock.path}",
            )
        try:
            name = lock.path.with_suffix(".owner")
            last = _read(name)
            if last not in ("", self._identity) and has_ports():
                self._refuse(
                    f"VMs of another driver, with its data in {last}, have ports on the bridge",
                    "end these VMs, or use user mode",
                )
            if last != self._identity:
                write_atomic(name, os.fsencode(self._identity), mode=0o600)
        except BaseException:
            lock.release()
            raise
        self._lock, self.problem = lock, None

    def _refuse(self, why: str, hint: str) -> None:
        self.problem = NetworkOwnedError(f"VMs cannot use VLANs: {why}", hint=hint)
        raise self.problem

    def release(self) -> None:
        """Give it up, if it is ours."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _read(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes())
    except FileNotFoundError:
        return ""
