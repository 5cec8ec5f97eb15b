"""What decides about an upgrade, found on a node's files."""

import asyncio
from pathlib import Path

import pytest
from fakes.nodeos import FakeNode

from qemu_node.config.node import NodeConfig
from qemu_node.nodeos.ledger.refusals import Refusal, refuse
from qemu_node.nodeos.release import Release
from qemu_node.nodeos.snapshots.clean import system_lock
from qemu_node.nodeos.snapshots.facts import read_facts
from qemu_node.nodeos.snapshots.record import SnapshotRecord
from qemu_node.nodeos.upgrade import run
from qemu_node.nodeos.upgrade.checks import UpgradeFacts
from qemu_node.nodeos.upgrade.run import UpgradeOptions, gather, upgrade
from qemu_node.nodeos.upgrade.source import Target, parse_system

_DIGEST = "sha256:" + "a" * 64
_TARGET = Target(source=parse_system(f"r.example/node@{_DIGEST}"), tag="v2")
_SNAPSHOTTER = Path(__file__).parents[4] / "osimage/files/etc/elemental/config.d/snapshotter.yaml"


def _gather(node: FakeNode, release: Release | None = None) -> UpgradeFacts:
    return gather(node.paths, _TARGET, release or Release(), read_facts(node.paths))


def test_the_size_of_a_snapshot_is_that_of_the_images_settings(tmp_path: Path) -> None:
    node = FakeNode.installed(tmp_path)
    assert _gather(node).image_limit_bytes is None
    node.paths.snapshotter_config.parent.mkdir(parents=True)
    node.paths.snapshotter_config.write_bytes(_SNAPSHOTTER.read_bytes())
    assert _gather(node).image_limit_bytes == 2048 << 20


@pytest.mark.parametrize("text", ["", "- a", "snapshotter: 1", "a: [", "snapshotter: {config: {}}"])
def test_settings_of_another_form_are_no_reason_against_an_upgrade(
    tmp_path: Path, text: str
) -> None:
    node = FakeNode.installed(tmp_path)
    node.paths.snapshotter_config.parent.mkdir(parents=True)
    node.paths.snapshotter_config.write_text(text)
    assert _gather(node).image_limit_bytes is None


def test_the_age_of_the_running_image_is_its_manifests_or_its_builds(tmp_path: Path) -> None:
    node = FakeNode.installed(tmp_path)
    assert _gather(node).running_created is None
    built = _gather(node, Release(epoch=1_764_000_000)).running_created
    assert built is not None
    assert built.year == 2025
    node.add(2, record=SnapshotRecord(created="2026-11-30T10:00:00+00:00"))
    node.link(2)
    node.enter("active", 2)
    signed = _gather(node, Release(epoch=1_764_000_000)).running_created
    assert signed is not None
    assert signed.year == 2026


def test_an_image_that_waits_for_the_restart_and_a_refusal_are_found(tmp_path: Path) -> None:
    node = FakeNode.installed(tmp_path)
    node.add(2, record=SnapshotRecord(digest=_DIGEST))
    node.link(2)
    refuse(node.paths, Refusal(digest=_DIGEST, reason="it did not boot", at="today"))
    facts = _gather(node)
    assert facts.pending_digest == _DIGEST
    assert facts.refused == "it did not boot (today)"


async def test_a_registry_that_hangs_keeps_nobody_from_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the boot that makes good what it means."""
    node = FakeNode.installed(tmp_path)
    asked = asyncio.Event()

    async def hang(*_: object) -> Target:
        asked.set()
        await asyncio.Event().wait()
        return _TARGET

    monkeypatch.setattr(run, "find_target", hang)
    options = UpgradeOptions(system=f"r.example/node@{_DIGEST}", only_check=True)
    looking = asyncio.ensure_future(upgrade(node.paths, NodeConfig(), options, lambda _line: None))
    await asked.wait()
    async with system_lock(node.paths):
        looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
