"""A node whose power fails anywhere in an upgrade, and in the boots after it.

GRUB's choice and Elemental's steps are played by `fakes.nodeos`. What must hold whatever happens:
an image that works is booted in the end, a bad one is refused, a good one never is, and GRUB's list
names only whole images.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.nodeos import Cutter, FakeNode, PowerCut, Quality

from qemu_node.errors import HostError
from qemu_node.nodeos.ledger import lines
from qemu_node.nodeos.ledger.refusals import read_refused
from qemu_node.nodeos.snapshots import grubenv
from qemu_node.nodeos.snapshots.apply import write_boot_list
from qemu_node.nodeos.snapshots.clean import clean
from qemu_node.nodeos.snapshots.facts import read_facts
from qemu_node.nodeos.snapshots.plan import before_switch
from qemu_node.nodeos.snapshots.record import SnapshotRecord, write_record
from qemu_node.nodeos.snapshots.settle import fail, note, settle
from qemu_node.nodeos.snapshots.verdict import needs_no_check

NEW = "sha256:" + "e" * 64
_STEPS = (
    "started", "copied", "chroot hook", "half an image", "an image", "no work directory",
    "no link", "link", "old ones removed", "boot list", "state",
)  # fmt: skip
_BOOTS_MAX = 12
_EARLY = 5
"""So many changes come before GRUB's variable is gone; a cut before counts as a failure."""


async def _boot(node: FakeNode) -> bool:
    """Boot once, and do what the units do; tell whether the node stays up."""
    mode, number = node.boot()
    quality = node.quality(number)
    if quality is Quality.NO_BOOT:
        return False
    await note(node.paths)
    if not node.has_health_check:
        return quality is Quality.GOOD
    if not needs_no_check(read_facts(node.paths)) and quality is Quality.BAD:
        await fail(node.paths)
        return False
    # /usr/sbin/elemental-boot-assessment
    if mode == "active":
        grubenv.update(node.paths.grubenv, {"boot_assessment_check": None})
    grubenv.update(node.paths.grubenv, {"last_boot_attempt": None})
    await settle(node.paths)
    return True


async def _boot_until_up(node: FakeNode) -> None:
    for _ in range(_BOOTS_MAX):
        if await _boot(node):
            return
    pytest.fail("the node does not come up")


async def _upgrade(node: FakeNode, *, cut_after: str | None = None) -> None:
    """Install NEW with our hooks, up to the step after which the power fails."""
    await clean(node.paths)
    number = max(node.numbers) + 1
    for step in node.upgrade(NEW):
        if step == "chroot hook":
            record = SnapshotRecord(digest=NEW, tag="new", installed_at="2026-11-30")
            write_record(node.paths.snapshots / str(number), record)
            await write_boot_list(node.paths, before_switch(read_facts(node.paths)))
        if step == cut_after:
            return


def _check_invariants(node: FakeNode, quality: Quality) -> None:
    facts = read_facts(node.paths)
    booted = facts.find(facts.booted)
    assert booted is not None
    assert booted.is_whole
    for number in node.passives:
        passive = facts.find(number)
        assert passive is not None
        assert passive.is_whole
        assert passive.digest not in facts.refused
    refused = {refusal.digest for refusal in read_refused(node.paths)}
    assert refused <= ({NEW} if quality is not Quality.GOOD else set())


def _node(tmp_path: Path, quality: Quality) -> FakeNode:
    node = FakeNode.installed(tmp_path)
    node.qualities[NEW] = quality
    return node


@pytest.mark.parametrize("quality", Quality)
async def test_an_upgrade_stays_or_goes_back_for_good(tmp_path: Path, quality: Quality) -> None:
    node = _node(tmp_path, quality)
    await _upgrade(node)
    await _boot_until_up(node)
    wanted = 2 if quality is Quality.GOOD else 1
    for _ in range(3):
        assert node.active == wanted
        assert "boot_assessment_check" not in node.grub
        _check_invariants(node, quality)
        assert await _boot(node)
    assert node.state_active() == [wanted]
    refused = [refusal.digest for refusal in read_refused(node.paths)]
    assert refused == ([] if quality is Quality.GOOD else [NEW])


@pytest.mark.parametrize("quality", Quality)
@pytest.mark.parametrize("step", _STEPS)
async def test_a_cut_in_an_upgrade_leaves_a_node_that_boots(
    tmp_path: Path, step: str, quality: Quality
) -> None:
    node = _node(tmp_path, quality)
    await _upgrade(node, cut_after=step)
    for _ in range(3):
        await _boot_until_up(node)
        _check_invariants(node, quality)
    # The next upgrade starts from an orderly state, whatever the cut has left.
    await clean(node.paths)
    facts = read_facts(node.paths)
    assert all(snapshot.is_whole for snapshot in facts.snapshots)
    assert set(node.state_digests()) == set(node.numbers)
    assert node.state_active() == [node.active]
    _check_invariants(node, quality)


@pytest.mark.parametrize("quality", [Quality.GOOD, Quality.BAD])
@pytest.mark.parametrize("at", range(_EARLY + 1, 20))
async def test_a_cut_at_any_change_of_ours_is_made_good(
    tmp_path: Path, cut_at: Callable[[int], Cutter], at: int, quality: Quality
) -> None:
    node = _node(tmp_path, quality)
    await _upgrade(node)
    # The first boots of the new image, with one power cut.
    for _ in range(_BOOTS_MAX):
        cut_at(at)
        try:
            if await _boot(node):
                break
        except PowerCut:
            break
        finally:
            cut_at(0)
    for _ in range(3):
        await _boot_until_up(node)
        _check_invariants(node, quality)
    assert node.active == (2 if quality is Quality.GOOD else 1)
    await clean(node.paths)
    assert set(node.state_digests()) == set(node.numbers)
    assert node.state_active() == [node.active]


@pytest.mark.parametrize("at", range(1, 16))
async def test_a_cut_while_cleaning_is_made_good_by_the_next(
    tmp_path: Path, cut_at: Callable[[int], Cutter], at: int
) -> None:
    node = _node(tmp_path, Quality.GOOD)
    node.add(2, record=SnapshotRecord(confirmed_at="2026-11-29"))
    node.add(4, data=b"half")
    node.add(5)
    cut_at(at)
    try:
        await clean(node.paths)
    except PowerCut:
        cut_at(0)
        await clean(node.paths)
    assert node.numbers == [1, 2]
    assert node.passives == [2]
    assert sorted(path.name for path in node.paths.snapshots.iterdir()) == ["1", "2", "active"]
    assert set(node.state_digests()) == {1, 2}


async def test_a_node_that_fell_back_stays_back_though_oem_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written down is said, and does not lead to the bad image at every reboot."""
    node = _node(tmp_path, Quality.BAD)
    await _upgrade(node)

    def full(path: Path, *_: object, **__: object) -> None:
        raise HostError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(lines, "write_atomic", full)
    for _ in range(_BOOTS_MAX):
        try:
            if await _boot(node):
                pytest.fail("nobody was told")
        except HostError as exc:
            assert "No space left" in str(exc)  # noqa: PT017 - of some boot, not of the first
            break
    assert node.active == 1
    assert node.boot() == ("active", 1)
    assert "boot_assessment_check" not in node.grub


async def test_ten_cuts_early_in_the_boots_of_a_confirmed_system_change_nothing(
    tmp_path: Path,
) -> None:
    node = _node(tmp_path, Quality.GOOD)
    await _upgrade(node)
    await _boot_until_up(node)
    for _ in range(10):
        assert node.boot() == ("active", 2)  # and nothing of its units
    await _boot_until_up(node)
    _check_invariants(node, Quality.GOOD)


async def test_an_unfinished_upgrade_does_not_put_the_confirmed_system_at_risk(
    tmp_path: Path,
) -> None:
    """The flag is set before the new image is there; a good system is not judged because of it."""
    node = _node(tmp_path, Quality.GOOD)
    node.add(2, record=SnapshotRecord(confirmed_at="2026-11-30"))
    node.link(2)
    node.qualities["sha256:" + "0" * 63 + "2"] = Quality.BAD  # its network is down today
    await _upgrade(node, cut_after="chroot hook")
    assert await _boot(node)
    assert node.active == 2
    assert read_refused(node.paths) == []


async def test_two_of_everything_at_once_is_refused(tmp_path: Path) -> None:
    from qemu_node.nodeos.snapshots.clean import system_lock

    node = _node(tmp_path, Quality.GOOD)
    async with system_lock(node.paths):
        with pytest.raises(HostError, match="another command"):
            async with system_lock(node.paths):
                await asyncio.sleep(0)


async def test_who_must_not_be_refused_waits_for_the_other(tmp_path: Path) -> None:
    from qemu_node.nodeos.snapshots.clean import system_lock

    node = _node(tmp_path, Quality.GOOD)
    order = []

    async def first() -> None:
        async with system_lock(node.paths):
            order.append("first")
            await asyncio.sleep(0.2)
            order.append("first is done")

    async def settling() -> None:
        await asyncio.sleep(0.05)
        async with system_lock(node.paths, wait_s=30):
            order.append("settled")

    await asyncio.gather(first(), settling())
    assert order == ["first", "first is done", "settled"]


@pytest.mark.parametrize("content", [b"", b"garbage"])
async def test_a_boot_restores_grubs_list_that_a_power_cut_has_damaged(
    tmp_path: Path, content: bytes
) -> None:
    node = _node(tmp_path, Quality.GOOD)
    await _upgrade(node)
    await _boot_until_up(node)
    node.paths.grub_oem_env.write_bytes(content)
    assert await _boot(node)
    assert node.passives == [1]


@pytest.mark.parametrize("quality", [Quality.GOOD, Quality.BAD])
async def test_a_bad_image_falls_back_though_grubs_list_was_lost_with_the_switch(
    tmp_path: Path, quality: Quality
) -> None:
    node = _node(tmp_path, quality)
    await _upgrade(node, cut_after="boot list")
    node.paths.grub_oem_env.write_bytes(b"")
    await _boot_until_up(node)
    assert node.active == (2 if quality is Quality.GOOD else 1)
