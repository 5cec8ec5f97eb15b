"""What a boot means for the images: confirmed, gone back for good, or neither. Pure.

GRUB boots the active snapshot and, while `boot_assessment_check` is set, writes down what it tried
(`last_boot_attempt`); at the next boot it tries the one after it. Elemental clears the flag only in
active mode, so a node that fell back would try the bad image again at each boot.

A confirmed image is never judged again: the flag that an unfinished upgrade leaves behind must not
make two power cuts the end of a good system. An unconfirmed one gets `ATTEMPTS_MAX` boots, so one
power cut in its first boot does not count against it; a failed health check does at once.
"""

from dataclasses import dataclass
from enum import StrEnum

from qemu_node.nodeos.boot import BootMode
from qemu_node.nodeos.snapshots.facts import Facts

ATTEMPTS_MAX = 2
"""How many boots of an unconfirmed image may begin and end without a verdict."""

CHECK = "boot_assessment_check"
ALWAYS_CHECK = "boot_assessment_always_check"
ATTEMPT = "last_boot_attempt"
NEXT_ENTRY = "next_entry"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotePlan:
    """What is done early in a boot."""

    attempts: int | None = None
    """The new count of boots of the booted snapshot; None leaves it."""
    unset: tuple[str, ...] = ()
    """GRUB's variables that are removed."""
    is_confirmed: bool = False
    """Whether the booted snapshot has passed, though nobody could note that."""


def plan_note(facts: Facts) -> NotePlan:
    """Return what is to be done early in a boot, by the facts at that time."""
    booted = facts.find(facts.booted)
    if facts.mode is not BootMode.ACTIVE or booted is None or booted.number != facts.active:
        return NotePlan()
    if CHECK not in facts.grub:
        # Only a check that passed takes the flag away. A cut came before that was written down.
        return NotePlan(is_confirmed=not booted.is_confirmed)
    if booted.is_confirmed:
        return NotePlan(unset=(CHECK, ATTEMPT))
    attempts = booted.record.attempts + 1
    # Without the variable GRUB boots the same image again. Whoever fails the check sets it anew.
    is_forgiven = attempts < ATTEMPTS_MAX
    return NotePlan(attempts=attempts, unset=(ATTEMPT,) if is_forgiven else ())


def needs_no_check(facts: Facts) -> bool:
    """Tell whether the booted snapshot has passed the health check before, so that it stays.

    Not if the operator has every boot checked (Elemental's variable for that).
    """
    booted = facts.find(facts.booted)
    is_always = facts.grub.get(ALWAYS_CHECK) == "yes"
    return booted is not None and booted.is_confirmed and not is_always


class Outcome(StrEnum):
    """What a boot that passed the health check means."""

    NOTHING = "nothing"
    """No snapshot, or nothing to decide."""
    CONFIRM = "confirm"
    """The active snapshot is good."""
    PROMOTE = "promote"
    """The booted passive becomes the active one; what failed is refused."""
    REPAIR = "repair"
    """The booted passive becomes the active one, since there is no other that can be booted."""
    LEAVE = "leave"
    """A passive runs, by somebody's choice or after a confirmed image did not come up once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a boot means."""

    outcome: Outcome
    failed: int | None = None
    """The snapshot that did not come up."""
    reason: str = ""


def judge(facts: Facts, attempt: str) -> Verdict:
    """Return what this boot means, now that it has passed the health check.

    Args:
        facts: As they are now.
        attempt: `last_boot_attempt` as it was when this boot began.
    """
    booted = facts.find(facts.booted)
    if booted is None:
        return Verdict(outcome=Outcome.NOTHING)
    if facts.mode is BootMode.ACTIVE:
        return Verdict(outcome=Outcome.CONFIRM)
    if facts.mode is not BootMode.PASSIVE or booted.number == facts.active:
        return Verdict(outcome=Outcome.NOTHING)
    failed = facts.find(facts.active)
    if failed is None or not failed.is_whole:
        number = facts.active
        what = "there is no active snapshot" if number is None else f"snapshot {number} is damaged"
        return Verdict(outcome=Outcome.REPAIR, failed=number, reason=what)
    if CHECK not in facts.grub or attempt != f"passive{booted.number}":
        return Verdict(outcome=Outcome.LEAVE, reason="it was chosen, not fallen back to")
    if failed.is_confirmed:
        reason = f"snapshot {failed.number} did not come up, but was good before"
        return Verdict(outcome=Outcome.LEAVE, failed=failed.number, reason=reason)
    reason = "it did not pass the health check" if failed.record.attempts else "it did not boot"
    return Verdict(outcome=Outcome.PROMOTE, failed=failed.number, reason=reason)
