"""Going back to an earlier snapshot because a person says so.

Owns which one, and that the image that is left stays away. Does not own how a snapshot becomes the
active one (`snapshots`).
"""

import asyncio

from qemu_node.errors import HostError
from qemu_node.nodeos.boot import BootMode
from qemu_node.nodeos.ledger.history import Event, note_event
from qemu_node.nodeos.ledger.lines import now
from qemu_node.nodeos.ledger.refusals import Refusal, forgive, refuse
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.snapshots.clean import activate, system_lock
from qemu_node.nodeos.snapshots.facts import Facts, Snapshot, read_facts

_REASON = "an operator went back from it"


def choose(facts: Facts, number: int | None) -> Snapshot:
    """Return the snapshot to go back to: pure.

    Raises:
        HostError: there is none, or it boots next anyway.
    """
    whole = [snapshot for snapshot in facts.snapshots if snapshot.is_whole]
    if number is None:
        # A passive that runs by somebody's choice is what is wanted, if anything is.
        is_passive = facts.mode is BootMode.PASSIVE and facts.booted != facts.active
        wanted = [s for s in whole if s.number == facts.booted] if is_passive else []
        others = [s for s in whole if s.number not in (facts.booted, facts.active)]
        pending = facts.active != facts.booted and not is_passive
        back = [s for s in whole if s.number == facts.booted] if pending else []
        others.sort(key=lambda s: (s.is_confirmed, s.number), reverse=True)
        found = next(iter((*wanted, *back, *others)), None)
        if found is None:
            raise HostError(
                "there is no other system to go back to",
                hint="`qemu-node os status` lists the snapshots; the recovery system is in GRUB's "
                "menu",
            )
        return found
    found = next((s for s in whole if s.number == number), None)
    if found is None:
        raise HostError(
            f"there is no snapshot {number} that can be booted",
            hint="`qemu-node os status` lists the snapshots",
        )
    if found.number == facts.active:
        raise HostError(f"snapshot {number} boots next already", hint="reboot")
    return found


async def roll_back(paths: NodePaths, number: int | None, *, keep: bool) -> Snapshot:
    """Make a snapshot the one that boots next, and return it.

    Args:
        paths: The node's.
        number: The snapshot; None chooses.
        keep: The image that is left is not refused.

    Raises:
        HostError: there is no such snapshot, or a step was refused; the call may be repeated.
    """
    async with system_lock(paths):
        facts = await asyncio.to_thread(read_facts, paths)
        target, left = choose(facts, number), facts.find(facts.active)
        if left is not None and left.digest and not keep and left.digest != target.digest:
            entry = Refusal(digest=left.digest, tag=left.record.tag, reason=_REASON, at=now())
            await asyncio.to_thread(refuse, paths, entry)
        if target.digest:
            await asyncio.to_thread(forgive, paths, [target.digest])
        await activate(paths, target.number)
        await asyncio.to_thread(
            note_event,
            paths,
            Event.ROLLED_BACK,
            snapshot=target.number,
            tag=target.record.tag,
            digest=target.digest,
            note=f"from snapshot {left.number}" if left else "",
        )
    return target
