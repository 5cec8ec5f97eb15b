"""Which snapshots a node keeps, and which it boots: pure.

Owns these decisions, for every occasion: before and after an upgrade, after a boot, at a rollback.
All of them are one question: how do the link, state.yaml, GRUB's list and the directories fit
together again, if this one is to be the active snapshot? So a power cut anywhere in between needs
no memory: the same question is asked again, of what there is then.
"""

from dataclasses import dataclass

from qemu_node.nodeos.snapshots.facts import Facts, Snapshot


@dataclass(frozen=True, slots=True)
class Removal:
    """A snapshot that goes, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be made true."""

    active: int | None
    """The snapshot that GRUB boots; None if there is none that can be booted."""
    passives: tuple[int, ...]
    """What GRUB tries after it, in this order."""
    removals: tuple[Removal, ...]

    @property
    def passive_snaps(self) -> str:
        """GRUB's variable of this name."""
        return " ".join(map(str, self.passives))

    @property
    def default_fallback(self) -> str:
        """GRUB's variable of this name: the menu entries that are tried if one cannot be loaded.

        The first is the active one, then come the passives, then the recovery system.
        """
        return " ".join(str(entry) for entry in range(len(self.passives) + 2))


def make_plan(facts: Facts, *, active: int | None = None, failed: int | None = None) -> Plan:
    """Return what is to be true if `active` shall be booted; by default what the link says.

    Kept are the booted snapshot, the active one, and whole ones that passed the health check or
    that Elemental knows and nothing is known against. `failed` is a snapshot that did not come up:
    it goes, whatever else is known of it.
    """
    chosen = _choose_active(facts, active)
    kept: list[Snapshot] = []
    removals: list[Removal] = []
    for snapshot in facts.snapshots:
        reason = _reason_against(snapshot, facts, chosen)
        if snapshot.number == failed and snapshot.number not in (chosen, facts.booted):
            reason = "it did not come up"
        if reason is None:
            kept.append(snapshot)
        else:
            removals.append(Removal(snapshot.number, reason))
    others = [s for s in kept if s.is_whole and s.number != chosen]
    # The running one is the best known, then those that were good, the newest first.
    others.sort(key=lambda s: (s.number == facts.booted, s.is_confirmed, s.number), reverse=True)
    return Plan(
        active=chosen,
        passives=tuple(s.number for s in others),
        removals=tuple(removals),
    )


def before_switch(facts: Facts) -> Plan:
    """Return the plan with the present active snapshot among those that GRUB falls back to.

    Elemental writes GRUB's list after it has switched to a new image. A power cut between would
    leave a new image without any to go back to.
    """
    plan = make_plan(facts)
    first = (plan.active,) if plan.active is not None else ()
    return Plan(active=plan.active, passives=(*first, *plan.passives), removals=())


def _choose_active(facts: Facts, wanted: int | None) -> int | None:
    """Return what is to be booted: what is wanted, else the best that there is."""
    whole = [snapshot for snapshot in facts.snapshots if snapshot.is_whole]
    numbers = {snapshot.number for snapshot in whole}
    for number in (wanted, facts.active, facts.booted):
        if number in numbers:
            return number
    good = [s for s in whole if s.digest not in facts.refused or not s.digest]
    best = max(good or whole, key=lambda s: (s.is_confirmed, s.number), default=None)
    return None if best is None else best.number


def _reason_against(snapshot: Snapshot, facts: Facts, active: int | None) -> str | None:
    """Return why a snapshot is removed; None if it is kept."""
    if snapshot.number in (active, facts.booted):
        return None
    if not snapshot.is_whole:
        return "its installation was not completed"
    if snapshot.digest and snapshot.digest in facts.refused:
        return "its image is refused"
    if snapshot.is_confirmed:
        return None
    if snapshot.entry is None and facts.document is not None:
        return "Elemental does not know it"
    if snapshot.record.installed_at:
        return "it was replaced before it was ever confirmed"
    return None
