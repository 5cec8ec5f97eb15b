"""Putting the snapshots in order, and making another one the active one, when a person says so.

Owns these two, and the lock that keeps two changes of the system apart. Decides nothing: `plan`.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from qemu_node.errors import HostError
from qemu_node.host.files.directories import make_directory
from qemu_node.host.files.lock import FileLock, LockBusyError
from qemu_node.nodeos.ledger.history import Event, note_event
from qemu_node.nodeos.mounts import is_read_only, remount, unmount
from qemu_node.nodeos.others import require_no_other
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.snapshots import grubenv
from qemu_node.nodeos.snapshots.apply import apply_plan
from qemu_node.nodeos.snapshots.facts import Facts, read_facts
from qemu_node.nodeos.snapshots.plan import Plan, make_plan
from qemu_node.nodeos.snapshots.verdict import ATTEMPT, CHECK


@asynccontextmanager
async def system_lock(paths: NodePaths, *, wait_s: float = 0.0) -> AsyncGenerator[None]:
    """Hold the right to change the node's system inside the block; wait `wait_s` for it at most.

    Raises:
        HostError: another command changes it, or an Elemental does that knows no such lock.
    """
    make_directory(paths.run, 0o755)
    lock = FileLock(paths.run / "lock")
    try:
        await lock.acquire(wait_s)
    except LockBusyError as exc:
        raise HostError(
            "another command is changing this node's system",
            hint="`qemu-node os status` shows what is installed; wait until it is done",
        ) from exc
    try:
        await asyncio.to_thread(require_no_other, paths)
        yield
    finally:
        lock.release()


async def clean(paths: NodePaths, *, failed: int | None = None) -> Plan:
    """Remove what no upgrade completed, and make link, state.yaml and GRUB's list fit together.

    Not while Elemental installs an image: that one looks like a left-over. `failed` is a snapshot
    that goes in any case, if it is neither booted nor active.

    Raises:
        HostError: a step was refused; the call may be repeated.
    """
    facts = await asyncio.to_thread(read_facts, paths)
    plan = make_plan(facts, failed=failed)
    await apply_plan(paths, facts, plan)
    await asyncio.to_thread(_note_removals, paths, facts, plan)
    return plan


async def tidy_mounts(paths: NodePaths) -> None:
    """Undo the mounts that a killed Elemental leaves. Not while one runs: it needs them.

    Raises:
        HostError: the kernel refused.
    """
    # It would keep the space of a removed snapshot.
    for place in (paths.working_tree, paths.recovery):
        await unmount(place)
    if not is_read_only(paths.efi) and await asyncio.to_thread(paths.efi.is_mount):
        await remount(paths.efi, "ro")


def _note_removals(paths: NodePaths, facts: Facts, plan: Plan) -> None:
    for removal in plan.removals:
        snapshot = facts.find(removal.number)
        note_event(
            paths,
            Event.REMOVED,
            snapshot=removal.number,
            tag=snapshot.record.tag if snapshot else "",
            digest=snapshot.digest if snapshot else "",
            note=removal.reason,
        )


async def activate(paths: NodePaths, number: int, *, failed: int | None = None) -> None:
    """Make the snapshot `number` the one that the next boot takes, and have that boot judged.

    Raises:
        HostError: there is no such snapshot, or a step was refused; the call may be repeated.
    """
    facts = await asyncio.to_thread(read_facts, paths)
    snapshot = facts.find(number)
    if snapshot is None or not snapshot.is_whole:
        raise HostError(
            f"there is no snapshot {number} that can be booted",
            hint="`qemu-node os status` lists the snapshots",
        )
    # The flag first. Should only this be done, the present system is judged once more.
    changes: grubenv.Changes = {CHECK: "yes", ATTEMPT: None}
    await asyncio.to_thread(grubenv.update, paths.grubenv, changes)
    await apply_plan(paths, facts, make_plan(facts, active=number, failed=failed))
