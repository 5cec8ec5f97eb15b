"""What a boot means for the images."""

from dataclasses import replace

import pytest

from qemu_node.nodeos.boot import BootMode
from qemu_node.nodeos.snapshots.facts import Facts, Snapshot
from qemu_node.nodeos.snapshots.record import SnapshotRecord
from qemu_node.nodeos.snapshots.verdict import (
    ATTEMPT,
    CHECK,
    Outcome,
    judge,
    needs_no_check,
    plan_note,
)

_GOOD = SnapshotRecord(confirmed_at="2026-11-30")
_CHECKED = {CHECK: "yes", ATTEMPT: "active"}


def _facts(
    *,
    mode: BootMode = BootMode.ACTIVE,
    booted: int | None = 2,
    active: int | None = 2,
    one: SnapshotRecord = _GOOD,
    two: SnapshotRecord = SnapshotRecord(),  # noqa: B008 - frozen
    grub: dict[str, str] | None = None,
) -> Facts:
    return Facts(
        mode=mode,
        booted=booted,
        active=active,
        snapshots=(
            Snapshot(number=1, is_whole=True, record=one),
            Snapshot(number=2, is_whole=True, record=two),
        ),
        grub=_CHECKED if grub is None else grub,
    )


def test_a_new_image_gets_a_second_attempt_after_a_power_cut() -> None:
    first = plan_note(_facts())
    assert (first.attempts, first.unset) == (1, (ATTEMPT,))
    second = plan_note(_facts(two=SnapshotRecord(attempts=1)))
    assert (second.attempts, second.unset) == (2, ())


def test_a_confirmed_image_is_never_judged_again() -> None:
    """The flag is what an unfinished upgrade left."""
    assert plan_note(_facts(two=_GOOD)).unset == (CHECK, ATTEMPT)
    assert needs_no_check(_facts(two=_GOOD))
    assert not needs_no_check(_facts())


def test_an_operator_can_have_every_boot_checked() -> None:
    facts = _facts(two=_GOOD, grub={"boot_assessment_always_check": "yes"})
    assert not needs_no_check(facts)


def test_an_image_that_passed_is_confirmed_later_if_a_cut_came_between() -> None:
    assert plan_note(_facts(grub={})).is_confirmed
    assert not plan_note(_facts(grub={}, two=_GOOD)).is_confirmed


@pytest.mark.parametrize("mode", [BootMode.PASSIVE, BootMode.RECOVERY, BootMode.LIVE])
def test_another_mode_counts_no_attempt(mode: BootMode) -> None:
    plan = plan_note(_facts(mode=mode, booted=1))
    assert (plan.attempts, plan.unset, plan.is_confirmed) == (None, (), False)


def test_the_active_system_is_confirmed() -> None:
    assert judge(_facts(), "active").outcome is Outcome.CONFIRM


def test_a_passive_that_took_over_becomes_the_active_one() -> None:
    facts = _facts(mode=BootMode.PASSIVE, booted=1, two=SnapshotRecord(attempts=2))
    verdict = judge(facts, "passive1")
    assert (verdict.outcome, verdict.failed) == (Outcome.PROMOTE, 2)
    assert verdict.reason == "it did not pass the health check"


def test_an_image_that_never_got_to_its_units_did_not_boot() -> None:
    facts = _facts(mode=BootMode.PASSIVE, booted=1)
    assert judge(facts, "passive1").reason == "it did not boot"


@pytest.mark.parametrize("attempt", ["", "active", "passive9"])
def test_a_passive_that_somebody_chose_changes_nothing(attempt: str) -> None:
    facts = _facts(mode=BootMode.PASSIVE, booted=1)
    assert judge(facts, attempt).outcome is Outcome.LEAVE
    assert judge(replace(facts, grub={}), "passive1").outcome is Outcome.LEAVE


def test_a_good_image_that_did_not_come_up_once_is_tried_again() -> None:
    facts = _facts(mode=BootMode.PASSIVE, booted=1, two=_GOOD)
    assert judge(facts, "passive1").outcome is Outcome.LEAVE


@pytest.mark.parametrize("active", [None, 7])
def test_a_missing_active_image_is_replaced_by_the_running_one(active: int | None) -> None:
    facts = _facts(mode=BootMode.PASSIVE, booted=1, active=active)
    assert judge(facts, "active").outcome is Outcome.REPAIR


def test_a_damaged_active_image_is_replaced_though_it_was_good() -> None:
    facts = _facts(mode=BootMode.PASSIVE, booted=1)
    damaged = Snapshot(number=2, is_whole=False, record=_GOOD)
    facts = replace(facts, snapshots=(facts.snapshots[0], damaged))
    verdict = judge(facts, "active")
    assert verdict.outcome is Outcome.REPAIR
    assert "damaged" in verdict.reason


def test_a_system_that_is_no_snapshot_decides_nothing() -> None:
    assert judge(_facts(booted=None), "").outcome is Outcome.NOTHING
    assert judge(_facts(mode=BootMode.RECOVERY), "").outcome is Outcome.NOTHING
