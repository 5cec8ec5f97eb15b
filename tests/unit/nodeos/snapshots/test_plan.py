"""Which snapshots are kept, and which is booted."""

from dataclasses import replace

from qemu_node.nodeos.boot import BootMode
from qemu_node.nodeos.snapshots.facts import Facts, Snapshot
from qemu_node.nodeos.snapshots.plan import Removal, before_switch, make_plan
from qemu_node.nodeos.snapshots.record import SnapshotRecord
from qemu_node.nodeos.snapshots.statefile import StateEntry

_GOOD = SnapshotRecord(confirmed_at="2026-11-30", installed_at="2026-11-29")
_NEW = SnapshotRecord(installed_at="2026-11-30")
_KNOWN = StateEntry(digest="sha256:aa")


def _snapshot(
    number: int,
    *,
    record: SnapshotRecord = _GOOD,
    entry: StateEntry | None = _KNOWN,
    is_whole: bool = True,
) -> Snapshot:
    return Snapshot(number=number, is_whole=is_whole, record=record, entry=entry)


def _facts(
    *snapshots: Snapshot,
    active: int | None = 3,
    booted: int | None = 3,
    mode: BootMode = BootMode.ACTIVE,
) -> Facts:
    return Facts(mode=mode, booted=booted, snapshots=snapshots, active=active, document={})


def test_good_snapshots_are_kept_the_newest_first() -> None:
    plan = make_plan(_facts(_snapshot(1), _snapshot(2), _snapshot(3)))
    assert plan.active == 3
    assert plan.passives == (2, 1)
    assert plan.removals == ()
    assert (plan.passive_snaps, plan.default_fallback) == ("2 1", "0 1 2 3")


def test_what_no_upgrade_completed_goes() -> None:
    plan = make_plan(
        _facts(
            _snapshot(3),
            _snapshot(4, is_whole=False, entry=None, record=_NEW),
            _snapshot(5, entry=None, record=_NEW),
        )
    )
    assert [removal.number for removal in plan.removals] == [4, 5]
    assert plan.passives == ()


def test_a_refused_image_is_no_target_to_go_back_to() -> None:
    bad = _snapshot(4, record=replace_digest(_GOOD, "sha256:bad"))
    facts = replace(_facts(_snapshot(3), bad), refused=frozenset(["sha256:bad"]))
    plan = make_plan(facts)
    assert plan.removals == (Removal(4, "its image is refused"),)
    assert plan.passives == ()


def test_the_booted_snapshot_stays_whatever_is_known_against_it() -> None:
    booted = _snapshot(2, is_whole=False, entry=None, record=_NEW)
    plan = make_plan(_facts(booted, _snapshot(3), booted=2))
    assert plan.removals == ()
    assert plan.passives == ()


def test_the_running_system_is_the_first_to_go_back_to() -> None:
    """After a roll-back to an older one, the newer ones may have been left for a reason."""
    plan = make_plan(_facts(_snapshot(1), _snapshot(2), _snapshot(5, record=_NEW), active=5,
                            booted=1, mode=BootMode.PASSIVE))  # fmt: skip
    assert (plan.active, plan.passives) == (5, (1, 2))


def test_an_image_that_was_replaced_before_it_ever_ran_goes() -> None:
    plan = make_plan(_facts(_snapshot(3), _snapshot(4, record=_NEW), _snapshot(5, record=_NEW),
                            active=5))  # fmt: skip
    assert [removal.number for removal in plan.removals] == [4]


def test_a_snapshot_of_an_earlier_release_without_a_record_stays() -> None:
    plan = make_plan(_facts(_snapshot(2, record=SnapshotRecord()), _snapshot(3)))
    assert plan.passives == (2,)


def test_without_state_yaml_nothing_is_removed_for_not_being_in_it() -> None:
    facts = replace(_facts(_snapshot(2, entry=None, record=SnapshotRecord()), _snapshot(3)),
                    document=None)  # fmt: skip
    assert make_plan(facts).removals == ()


def test_a_missing_link_leads_to_the_running_system() -> None:
    """Elemental removes the link before it makes the new one."""
    plan = make_plan(_facts(_snapshot(2), _snapshot(3, record=_NEW, entry=None), active=None,
                            booted=2, mode=BootMode.PASSIVE))  # fmt: skip
    assert plan.active == 2


def test_a_link_to_half_an_image_is_no_reason_to_boot_it() -> None:
    facts = _facts(_snapshot(2), _snapshot(3, is_whole=False), booted=2, mode=BootMode.PASSIVE)
    assert make_plan(facts).active == 2


def test_in_a_recovery_system_the_best_image_is_booted() -> None:
    facts = _facts(_snapshot(1, record=_NEW), _snapshot(2), _snapshot(3, record=_NEW),
                   active=None, booted=None, mode=BootMode.RECOVERY)  # fmt: skip
    assert make_plan(facts).active == 2


def test_nothing_that_boots_is_nothing_that_is_active() -> None:
    assert make_plan(_facts(_snapshot(1, is_whole=False), active=1, booted=None)).active is None


def test_before_the_switch_grub_knows_the_present_system() -> None:
    plan = before_switch(_facts(_snapshot(2), _snapshot(3), _snapshot(4, is_whole=False)))
    assert plan.passives == (3, 2)
    assert plan.removals == ()


def replace_digest(record: SnapshotRecord, digest: str) -> SnapshotRecord:
    return SnapshotRecord(digest=digest, confirmed_at=record.confirmed_at)
