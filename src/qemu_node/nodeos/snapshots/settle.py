"""Acting on a boot: noting how it began, and what it means once it has passed the health check.

Owns the order of these acts and the file of this boot in /run. Decides nothing: `verdict`, `plan`.
The units call `note` early and before the health check, `fail` when the check has failed, `settle`
when it has passed. A cut anywhere is repaired by the next boot, which does the same again.
"""

import asyncio

import msgspec

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import write_atomic
from qemu_node.host.files.directories import make_directory
from qemu_node.nodeos.boot import BootMode, read_boot
from qemu_node.nodeos.ledger.history import Event, note_event
from qemu_node.nodeos.ledger.lines import now
from qemu_node.nodeos.ledger.refusals import Refusal, refuse
from qemu_node.nodeos.mounts import writable
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import read_release
from qemu_node.nodeos.snapshots import grubenv
from qemu_node.nodeos.snapshots.apply import apply_plan, write_boot_list
from qemu_node.nodeos.snapshots.facts import Facts, Snapshot, read_facts
from qemu_node.nodeos.snapshots.plan import make_plan
from qemu_node.nodeos.snapshots.record import write_record
from qemu_node.nodeos.snapshots.verdict import (
    ATTEMPT,
    CHECK,
    Outcome,
    Verdict,
    judge,
    plan_note,
)
from qemu_node.text import DECODE_ERRORS


class BootNote(msgspec.Struct, frozen=True, kw_only=True):
    """How this boot began."""

    boot_id: str
    attempt: str = ""
    """`last_boot_attempt` as GRUB wrote it."""
    is_judged: bool = True
    """Whether the health check has passed, or there is none to pass in this boot."""


def read_note(paths: NodePaths) -> BootNote | None:
    """Return how this boot began; None if nobody has noted it."""
    try:
        note = msgspec.json.decode((paths.run / "boot.json").read_bytes(), type=BootNote)
    except (OSError, *DECODE_ERRORS):
        return None
    return note if note.boot_id == read_boot(paths).boot_id else None


def _write_note(paths: NodePaths, note: BootNote) -> None:
    make_directory(paths.run, 0o755)
    write_atomic(paths.run / "boot.json", msgspec.json.encode(note))


async def note(paths: NodePaths) -> BootNote:
    """Note how this boot began; once for each boot, further calls change nothing.

    Last, GRUB's list of snapshots is put right: a power cut can have damaged it, and a new image
    that does not come up needs it.

    Raises:
        HostError: a file cannot be read or written.
    """
    known = await asyncio.to_thread(read_note, paths)
    if known is not None:
        return known
    facts = await asyncio.to_thread(read_facts, paths)
    plan = plan_note(facts)
    booted = facts.find(facts.booted)
    if plan.is_confirmed:
        await _confirm(paths, facts)
    # GRUB's variable first: until it is gone, a power cut counts as the image's failure.
    if plan.unset:
        changes = dict.fromkeys(plan.unset)
        await asyncio.to_thread(grubenv.update, paths.grubenv, changes)
    if booted is not None and plan.attempts is not None:
        await _change_record(paths, booted, attempts=plan.attempts)
    # From the disk again: in a passive system nothing was changed, and the check is still on.
    found = BootNote(
        boot_id=read_boot(paths).boot_id,
        attempt=facts.grub.get(ATTEMPT, ""),
        is_judged=CHECK not in facts.grub or CHECK in plan.unset,
    )
    await asyncio.to_thread(_write_note, paths, found)
    # In a passive system GRUB still goes by the list as it is.
    if facts.mode is BootMode.ACTIVE and booted is not None and booted.number == facts.active:
        await write_boot_list(paths, make_plan(facts))
    return found


async def fail(paths: NodePaths) -> None:
    """Have GRUB go on to the next snapshot at the next boot: the health check has failed.

    Raises:
        HostError: GRUB's variables cannot be written.
    """
    began = await note(paths)
    if began.attempt and not began.is_judged:
        change = {ATTEMPT: began.attempt}
        await asyncio.to_thread(grubenv.update, paths.grubenv, change)


async def settle(paths: NodePaths) -> Verdict:
    """Make good what this boot means; the health check has passed.

    Raises:
        HostError: a step was refused; the call may be repeated.
    """
    began = await note(paths)
    facts = await asyncio.to_thread(read_facts, paths)
    verdict = judge(facts, began.attempt)
    match verdict.outcome:
        case Outcome.NOTHING:
            pass
        case Outcome.LEAVE:
            # GRUB tries the active one again at the next boot.
            changes: grubenv.Changes = {ATTEMPT: None}
            await asyncio.to_thread(grubenv.update, paths.grubenv, changes)
        case Outcome.CONFIRM:
            await _confirm(paths, facts)
        case Outcome.PROMOTE | Outcome.REPAIR:
            await _promote(paths, facts, verdict)
    judged = msgspec.structs.replace(began, is_judged=True)
    await asyncio.to_thread(_write_note, paths, judged)
    return verdict


async def _confirm(paths: NodePaths, facts: Facts) -> None:
    booted = _booted(facts)
    if not booted.is_confirmed:
        tag = read_release(paths).tag or booted.record.tag
        await _change_record(paths, booted, confirmed_at=now(), tag=tag)
        facts = await asyncio.to_thread(read_facts, paths)
        note_event(paths, Event.CONFIRMED, snapshot=booted.number, tag=tag, digest=booted.digest)
    await apply_plan(paths, facts, make_plan(facts))
    # If another image was installed since, the flag is for that one.
    if facts.active == booted.number:
        await asyncio.to_thread(clear_flags, paths)


async def _promote(paths: NodePaths, facts: Facts, verdict: Verdict) -> None:
    """Make the booted snapshot the active one; the flag that has GRUB try another goes last."""
    booted, failed = _booted(facts), facts.find(verdict.failed)
    tag = read_release(paths).tag or booted.record.tag
    problem: HostError | None = None
    try:
        await asyncio.to_thread(_write_down, paths, booted, failed, verdict, tag)
    except HostError as exc:
        # /oem is full, say. That the node stays back matters more than what is known of it later:
        # no upgrade is made while /oem is full.
        problem = exc
    if not booted.is_confirmed:
        await _change_record(paths, booted, confirmed_at=now(), tag=tag)
    facts = await asyncio.to_thread(read_facts, paths)
    plan = make_plan(facts, active=booted.number, failed=verdict.failed)
    await apply_plan(paths, facts, plan)
    await asyncio.to_thread(clear_flags, paths)
    if problem is not None:
        raise problem


def _write_down(
    paths: NodePaths, booted: Snapshot, failed: Snapshot | None, verdict: Verdict, tag: str
) -> None:
    """Refuse the image that did not come up, and tell people."""
    if verdict.outcome is Outcome.PROMOTE and failed is not None and failed.digest:
        entry = Refusal(
            digest=failed.digest, tag=failed.record.tag, reason=verdict.reason, at=now()
        )
        refuse(paths, entry)
    note_event(
        paths,
        Event.FELL_BACK,
        snapshot=booted.number,
        tag=tag,
        digest=failed.digest if failed else "",
        note=_about(failed, verdict),
    )


def _about(failed: Snapshot | None, verdict: Verdict) -> str:
    if failed is None or not failed.record.tag:
        return verdict.reason
    return f"{failed.record.tag}: {verdict.reason}"


def _booted(facts: Facts) -> Snapshot:
    booted = facts.find(facts.booted)
    if booted is None:
        raise HostError("the running system is no snapshot")
    return booted


def clear_flags(paths: NodePaths) -> None:
    """Have no boot judged any more.

    Raises:
        HostError: GRUB's variables cannot be written.
    """
    changes: grubenv.Changes = {CHECK: None, ATTEMPT: None}
    grubenv.update(paths.grubenv, changes)


async def _change_record(paths: NodePaths, snapshot: Snapshot, **changes: object) -> None:
    new = msgspec.structs.replace(snapshot.record, **changes)
    async with writable(paths.state):
        await asyncio.to_thread(write_record, paths.snapshots / str(snapshot.number), new)
