import pytest

from qemu_node.errors import HostError
from qemu_node.nodeos.boot import BootMode
from qemu_node.nodeos.rollback import choose
from qemu_node.nodeos.snapshots.facts import Facts, Snapshot
from qemu_node.nodeos.snapshots.record import SnapshotRecord


def _facts(*, booted: int, active: int, mode: BootMode = BootMode.ACTIVE) -> Facts:
    good = SnapshotRecord(confirmed_at="2026-11-30")
    records = {1: good, 2: good, 3: SnapshotRecord(), 4: good}
    return Facts(
        mode=mode,
        booted=booted,
        active=active,
        snapshots=tuple(
            Snapshot(number=n, is_whole=n != 1, record=record) for n, record in records.items()
        ),
    )


def test_without_a_number_it_is_the_newest_that_was_good() -> None:
    assert choose(_facts(booted=4, active=4), None).number == 2


def test_an_image_that_has_not_run_yet_is_taken_back() -> None:
    assert choose(_facts(booted=2, active=4), None).number == 2


def test_an_older_system_that_somebody_booted_is_made_to_stay() -> None:
    assert choose(_facts(booted=2, active=4, mode=BootMode.PASSIVE), None).number == 2


@pytest.mark.parametrize(("number", "words"), [(1, "can be booted"), (9, "no snapshot 9"),
                                               (4, "boots next already")])  # fmt: skip
def test_a_number_that_makes_no_sense_is_refused(number: int, words: str) -> None:
    with pytest.raises(HostError, match=words):
        choose(_facts(booted=4, active=4), number)


def test_a_node_with_one_system_has_none_to_go_back_to() -> None:
    only = Facts(
        mode=BootMode.ACTIVE, booted=1, active=1, snapshots=(Snapshot(number=1, is_whole=True),)
    )
    with pytest.raises(HostError, match="no other system"):
        choose(only, None)
