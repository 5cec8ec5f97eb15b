"""Which driver manages the network of this node: only one, as long as its VMs have ports.

Owns the lock for that. A second driver would take the TAPs and VLANs of the first for left-overs
and remove them. An nftables table can have an owner, but only from Linux 6.10 on, and TAPs and
VLANs cannot. Calls block: use a thread.
"""

import os
from collections.abc import Callable
from pathlib import Path

from qemu_node.host.files.atomic import write_atomic
from qemu_node.host.files.lock import FileLock
from qemu_node.net.errors import NetworkOwnedError

_DIRECTORY = Path("/run")
"""Fixed, unlike `paths.run`, because drivers with different paths share the network."""


class NetworkOwner:
    """The right to manage the network. The kernel releases it when this process ends.

    A file beside the lock names the last owner. When that driver ends, its VMs go on, with ports
    that only it knows. Until these VMs have ended, no other driver gets the network.
    """

    def __init__(self, identity: str) -> None:
        """Remember which driver this is.

        Args:
            identity: The data directory, which is the same for every driver of the same VMs.
        """
        self._identity = identity
        self._lock: FileLock | None = None
        self.problem: NetworkOwnedError | None = None
        """Why the last attempt failed."""

    def acquire(self, has_ports: Callable[[], bool]) -> None:
        """Acquire it. Idempotent.

        Args:
            has_ports: Returns whether VMs have ports on the bridge.

        Raises:
            NetworkOwnedError: another driver has it, or had it and its VMs run.
            HostError: the lock file cannot be created.
        """
        if self._lock is not None:
            return
        # A container on this node may share /run but have a network of its own.
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
        """Release it. Idempotent."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _read(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes())
    except FileNotFoundError:
        return ""
