"""What is left of VMs that nobody manages: found, judged, removed.

Owns the rule (`is_left_over`, pure) and its application. References are found, never counted: a VM
is what has a directory, a process, or a leased user id. A VM whose lock another driver holds is
left alone.
"""

import contextlib
import logging
import time
from collections.abc import Collection, Container
from dataclasses import dataclass
from pathlib import Path

from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory, known_vm_ids
from qemu_node.vm.record.leases import release_stale
from qemu_node.vm.record.processes import running_vm_ids
from qemu_node.vm.record.record import StateError, StateHeader, VMState
from qemu_node.vm.record.removal import remove_vm

log = logging.getLogger(__name__)

EVIDENCE_GRACE_S = 600.0
"""How long the files of an ended VM wait for a driver that asks how it ended.

Nomad recovers its tasks within seconds of starting a driver."""

RECOVERY_GRACE_S = 30.0
"""How long a VM may run without a manager before it is reported."""

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVM:
    """What there is of one unmanaged VM."""

    was_started: bool
    """Its start was completed: state.json is there."""
    unreadable: str | None = None
    """Why state.json cannot be read: damaged, or of a newer driver."""
    is_running: bool
    has_alloc: bool
    """Nomad's directory of its allocation still exists; False where state.json is unreadable."""
    unmanaged_s: float
    """How long this process has known it without a manager."""


def is_left_over(found: FoundVM) -> bool:
    """Tell whether a VM without a manager is removed.

    A start that was never completed is of no use to anyone: Nomad starts the task again. A VM of an
    allocation that Nomad has removed is nobody's. A running VM is kept for the driver that will
    recover it, and the files of an ended one for a while, because they say how it ended. So is one
    whose state cannot be read: a newer driver may have started it.
    """
    if not found.was_started or (found.unreadable is None and not found.has_alloc):
        return True
    return not found.is_running and found.unmanaged_s >= EVIDENCE_GRACE_S


def some(vm_ids: Collection[str]) -> str:
    """Return the first few ids, in order, for a line of text."""
    shown = ", ".join(sorted(vm_ids)[:_SHOWN])
    return shown if len(vm_ids) <= _SHOWN else f"{shown} and {len(vm_ids) - _SHOWN} more"


def examine(directory: VMDirectory, *, is_running: bool, unmanaged_s: float) -> FoundVM:
    """Return what there is of a VM."""
    unreadable, has_alloc = None, False
    try:
        state: StateHeader | None = directory.read_state()
        if isinstance(state, VMState):
            has_alloc = Path(state.record.alloc_dir).is_dir()
    except StateError as exc:
        state, unreadable = exc.header, exc.explain()
    return FoundVM(
        was_started=state is not None or unreadable is not None,
        unreadable=unreadable,
        is_running=is_running or (state is not None and state.is_running),
        has_alloc=has_alloc,
        unmanaged_s=unmanaged_s,
    )


class Reconciler:
    """Removes what has no live VM behind it; to be run at the start and every minute."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._unmanaged_since: dict[str, float] = {}
        self._unclaimed: list[str] = []
        self._unreadable: dict[str, str] = {}

    async def run(self, managed: Container[str] = ()) -> list[str]:
        """Look at every VM that is not in `managed` and return the ids of those removed."""
        running = await to_the_end(running_vm_ids, self._paths.vm_data_dir)
        self._unclaimed.clear()
        self._unreadable.clear()
        removed = []
        candidates = known_vm_ids(self._paths) | running
        for vm_id in sorted(candidates):
            if vm_id in managed:
                self._unmanaged_since.pop(vm_id, None)
            elif await self._try(vm_id, is_running=vm_id in running):
                removed.append(vm_id)
        self._unmanaged_since = {
            vm_id: since for vm_id, since in self._unmanaged_since.items() if vm_id in candidates
        }
        await to_the_end(release_stale, self._paths.vm_data_dir)
        return removed

    async def _try(self, vm_id: str, *, is_running: bool) -> bool:
        """Do `_look_at`; whatever is wrong with one VM keeps none of the others from its turn."""
        try:
            return await self._look_at(vm_id, is_running=is_running)
        except (HostError, OSError) as exc:
            log.warning("left-over VM not removed", extra={"vm_id": vm_id, "error": str(exc)})
        except Exception:
            log.exception("left-over VM not judged", extra={"vm_id": vm_id})
        return False

    async def _look_at(self, vm_id: str, *, is_running: bool) -> bool:
        """Judge one VM and act on it; True if it was removed."""
        directory = VMDirectory.of(self._paths, vm_id)
        with contextlib.suppress(HostError):
            # A VM whose data directory was lost, but not its process, needs one to lock.
            directory.create_data()
        lock = DirectoryLock.try_acquire(directory.data)
        if lock is None:
            self._unmanaged_since.pop(vm_id, None)
            return False
        try:
            since = self._unmanaged_since.setdefault(vm_id, time.monotonic())
            unmanaged_s = time.monotonic() - since
            # In a thread: while a new driver recovers its VMs it finds all of them unmanaged here.
            found = await to_the_end(
                examine, directory, is_running=is_running, unmanaged_s=unmanaged_s
            )
            if not is_left_over(found):
                self._note(vm_id, found)
                return False
            log.info("removing what is left of a VM", extra={"vm_id": vm_id})
            await remove_vm(directory)
        finally:
            lock.release()
        return True

    def _note(self, vm_id: str, found: FoundVM) -> None:
        """Remember a VM that runs without a manager, for `problems`."""
        if not found.is_running:
            return
        if found.unreadable is not None:
            self._unreadable[vm_id] = found.unreadable
            log.warning(
                "VM is left alone: its state cannot be read",
                extra={"vm_id": vm_id, "error": found.unreadable},
            )
        elif found.unmanaged_s >= RECOVERY_GRACE_S:
            self._unclaimed.append(vm_id)
            log.warning("VM runs without a driver", extra={"vm_id": vm_id})

    @property
    def problems(self) -> list[str]:
        """What an operator should know of VMs that run and that nobody manages."""
        texts = []
        if self._unclaimed:
            texts.append(
                f"VMs run without a driver: {some(self._unclaimed)} (Nomad has not asked for them; "
                "`qemu-node vm stop` ends one)"
            )
        if self._unreadable:
            texts.append(
                f"VMs run whose state cannot be read: {some(self._unreadable)} (they are left "
                "alone; upgrade this driver if a newer one started them)"
            )
        return texts
