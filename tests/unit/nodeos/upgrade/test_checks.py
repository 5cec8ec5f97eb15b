import datetime
from dataclasses import replace

import pytest

from qemu_node.nodeos.boot import BootMode
from qemu_node.nodeos.upgrade.checks import (
    UpgradeFacts,
    Waiver,
    find_reasons,
    is_pending,
    is_up_to_date,
    not_waived,
    peak_bytes,
)
from qemu_node.units import GIB, MIB

_OLD = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
_NEW = datetime.datetime(2026, 11, 30, tzinfo=datetime.UTC)
_FINE = UpgradeFacts(
    mode=BootMode.ACTIVE,
    is_judged=True,
    digest="sha256:new",
    tag="v2",
    created=_NEW,
    unpacked_bytes=900 * MIB,
    running_digest="sha256:old",
    running_created=_OLD,
    pending_digest="",
    pending_created=None,
    refused=None,
    state_free_bytes=5 * GIB,
    oem_free_bytes=100 * MIB,
    image_limit_bytes=2048 * MIB,
    largest_bytes=900 * MIB,
)


def test_a_newer_image_may_be_installed() -> None:
    assert find_reasons(_FINE) == []


def test_also_from_a_passive_system() -> None:
    """That is how a node is repaired."""
    assert find_reasons(replace(_FINE, mode=BootMode.PASSIVE)) == []


@pytest.mark.parametrize(
    ("change", "words", "waiver"),
    [
        ({"mode": BootMode.LIVE}, "live system", None),
        ({"mode": BootMode.RECOVERY}, "recovery system", None),
        ({"mode": BootMode.OTHER}, "no installed node system", None),
        ({"is_judged": False}, "has not passed its health check", Waiver.FORCE),
        ({"refused": "it did not boot"}, "it did not boot", Waiver.FORCE),
        ({"created": _OLD - datetime.timedelta(days=1)}, "v2 is of 2026-10-31", Waiver.DOWNGRADE),
        # An old manifest, signed at its time, in place of the one that this image was found by.
        (
            {
                "pending_digest": "sha256:newer",
                "pending_created": _NEW + datetime.timedelta(days=1),
            },
            "the next system of 2026-12-01",
            Waiver.DOWNGRADE,
        ),
        ({"state_free_bytes": 2 * GIB}, "the state partition has 2.0 GiB free", None),
        ({"oem_free_bytes": 0}, "/oem is full", None),
        ({"unpacked_bytes": 2000 * MIB}, "a snapshot takes 2.0 GiB", None),
    ],
)
def test_each_reason_against_it_is_named(
    change: dict[str, object], words: str, waiver: Waiver | None
) -> None:
    [reason] = find_reasons(replace(_FINE, **change))  # type: ignore[arg-type]
    assert words in reason.text
    assert reason.waiver is waiver


def test_an_option_sets_only_its_own_reason_aside() -> None:
    facts = replace(_FINE, refused="bad", state_free_bytes=0)
    left = not_waived(find_reasons(facts), frozenset([Waiver.FORCE]))
    assert [reason.waiver for reason in left] == [None]
    assert len(not_waived(find_reasons(facts), frozenset([Waiver.DOWNGRADE]))) == 2


def test_what_has_no_date_is_not_taken_for_older() -> None:
    assert find_reasons(replace(_FINE, created=None)) == []
    assert find_reasons(replace(_FINE, running_created=None)) == []


def test_the_peak_holds_the_files_and_an_image_of_them() -> None:
    assert peak_bytes(1000 * MIB, 0) > 2000 * MIB
    # Nothing says how large it is: no less than what is there, and no less than usual.
    assert peak_bytes(None, 3000 * MIB) > 6000 * MIB
    assert peak_bytes(None, 0) > 2400 * MIB


def test_an_image_that_runs_is_up_to_date_unless_another_one_comes_next() -> None:
    runs = replace(_FINE, running_digest="sha256:new")
    assert is_up_to_date(runs)
    assert not is_up_to_date(replace(runs, pending_digest="sha256:other"))
    assert is_pending(replace(_FINE, pending_digest="sha256:new"))
    assert not is_pending(_FINE)
