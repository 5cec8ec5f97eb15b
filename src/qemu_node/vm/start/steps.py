"""The first steps of a VM's start, its directory and its user, and what all steps share.

Owns the names of all steps. Does not own their order (`launch`), nor the steps that make the VM's
files (`vmfiles`) and QEMU's process (`qemuprocess`). Each step is announced in the log with its
name (`start step`), so that a test can end the driver at any of them, and registers its undo before
the next one begins. What a step needs of an earlier one is its argument.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from qemu_node.config.node import NodeConfig, Paths
from qemu_node.host.concurrency.cancellation import Undo
from qemu_node.host.concurrency.threads import acquire_in_thread, to_the_end
from qemu_node.host.process.users import UserClaim
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory
from qemu_node.vm.record.leases import lease_uid
from qemu_node.vm.record.record import StateError, StateHeader
from qemu_node.vm.record.removal import claim, remove_files
from qemu_node.vm.services import Rights, Tell
from qemu_node.vm.start.request import VMRequest
from qemu_node.vm.vmnetwork import Network

log = logging.getLogger(__name__)


class StartStep(StrEnum):
    """The steps of a start, in order."""

    CLAIM = "claim"
    IMAGE = "image"
    BASE = "base"
    USER = "user"
    OVERLAY = "overlay"
    VARSTORE = "varstore"
    CONFIG_DRIVE = "config-drive"
    SOCKETS = "sockets"
    NETWORK = "network"
    CGROUP = "cgroup"
    SPAWN = "spawn"
    QMP = "qmp"
    PUBLISH = "publish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start: what is asked for, and what takes its steps back."""

    request: VMRequest
    tell: Tell
    undo: Undo
    on_step: Callable[[StartStep], object] = lambda _: None

    def announce(self, step: StartStep) -> None:
        """Log that `step` begins, and tell whoever counts."""
        self.on_step(step)
        vm_id = self.request.identity.vm_id
        log.debug("start step", extra={"step": step.value, "vm_id": vm_id})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDirectory:
    """A VM's directory, which is fresh and ours."""

    files: VMDirectory
    lock: DirectoryLock


@dataclass(frozen=True, slots=True)
class VMUser:
    """The user that QEMU runs as."""

    claim: UserClaim | None
    """None: ours, without root."""
    groups: tuple[int, ...] = ()
    """Its supplementary groups."""

    @property
    def uid(self) -> int | None:
        """Its number, which its group has as well; None: ours."""
        return None if self.claim is None else self.claim.uid

    @property
    def owner(self) -> tuple[int, int] | None:
        """User and group of what QEMU opens; None: ours."""
        return None if self.claim is None else (self.claim.uid, self.claim.uid)


async def claim_directory(start: Start, paths: Paths, network: Network) -> ClaimedDirectory:
    """Return the VM's directory, without what an earlier start of the task has left there."""
    start.announce(StartStep.CLAIM)
    directory = VMDirectory.of(paths, start.request.identity.vm_id)
    left_over: StateHeader | None
    try:
        left_over = await to_the_end(directory.read_state)
    except StateError as exc:
        left_over = exc.header
    lock = await claim(directory)
    start.undo.callback(lock.release)
    start.undo.push_async_callback(remove_files, directory)
    if left_over is not None:
        # Nobody has detached its ports, which may be others than those of the new start.
        await network.detach(left_over.record.ports)
    return ClaimedDirectory(files=directory, lock=lock)


async def lease_user(
    start: Start, directory: ClaimedDirectory, config: NodeConfig, rights: Rights
) -> VMUser:
    """Return the user that QEMU will run as."""
    start.announce(StartStep.USER)
    if not rights.is_root:
        return VMUser(None)
    # The lease is removed with the directory, by whoever removes that.
    user = await acquire_in_thread(
        lease_uid,
        UserClaim.close,
        config.paths.vm_data_dir,
        directory.files.vm_id,
        config.qemu.first_uid,
        config.qemu.uid_count,
    )
    start.undo.callback(user.close)
    return VMUser(user, groups=() if rights.kvm_gid is None else (rights.kvm_gid,))
