"""An upgrade without anybody: when, whose turn, and only once for an image that fails."""

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes.nodeos import FakeNode

from qemu_node.config.node import NodeConfig
from qemu_node.config.nodeos import OsConfig
from qemu_node.errors import HostError
from qemu_node.nodeos.agent.client import LocalAgent
from qemu_node.nodeos.agent.config import AgentConfig
from qemu_node.nodeos.ledger.refusals import Refusal, refuse
from qemu_node.nodeos.rollout import automatic
from qemu_node.nodeos.rollout.automatic import Cluster, tick
from qemu_node.nodeos.rollout.lock import Phase, Rollout, RolloutLock, taken
from qemu_node.nodeos.snapshots.record import SnapshotRecord, write_record
from qemu_node.nodeos.upgrade.run import UpgradeOptions, UpgradeRefusedError, UpgradeResult
from qemu_node.nodeos.upgrade.source import Target, parse_system

_NEW = "sha256:" + "e" * 64
_TARGET = Target(source=parse_system(f"r.example/node@{_NEW}"), tag="v2")
_OPEN = datetime.datetime(2026, 11, 30, 3, 0, tzinfo=datetime.UTC)
_CLOSED = datetime.datetime(2026, 11, 30, 12, 0, tzinfo=datetime.UTC)
_CONFIG = NodeConfig(os=OsConfig(automatic=True))


class _Lock(RolloutLock):
    def __init__(self) -> None:
        super().__init__(LocalAgent(AgentConfig(), ""), "x")
        self.value = Rollout()

    async def read(self) -> Rollout:
        return self.value

    async def write(self, rollout: Rollout) -> bool:
        self.value = rollout
        return True


@dataclass
class _World:
    """What is around the decision, and what it did."""

    node: FakeNode
    lock: _Lock = field(default_factory=_Lock)
    needs_reboot: bool = True
    error: Exception | None = None
    looked: int = 0
    installed: int = 0
    restarted: int = 0
    told: list[str] = field(default_factory=list)

    async def upgrade(
        self, _paths: object, _config: object, options: UpgradeOptions, _tell: object
    ) -> UpgradeResult:
        if options.only_check:
            self.looked += 1
            if isinstance(self.error, UpgradeRefusedError):
                raise self.error
        else:
            self.installed += 1
            if self.error is not None:
                raise self.error
        return UpgradeResult(
            target=_TARGET, is_installed=not options.only_check, needs_reboot=self.needs_reboot
        )

    async def restart(self, _paths: object, **_: Any) -> None:
        self.restarted += 1

    async def tick(self, now: datetime.datetime = _OPEN, config: NodeConfig = _CONFIG) -> None:
        await tick(self.node.paths, config, self.told.append, now=now)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _World:
    world = _World(FakeNode.installed(tmp_path))
    monkeypatch.setattr(automatic, "upgrade", world.upgrade)
    monkeypatch.setattr(automatic, "restart", world.restart)
    monkeypatch.setattr(
        automatic, "join_cluster", lambda *_: Cluster(lock=world.lock, node_id="id1")
    )
    return world


async def test_it_is_off_by_default(world: _World) -> None:
    await world.tick(config=NodeConfig())
    assert (world.looked, world.installed, world.restarted) == (0, 0, 0)


async def test_outside_of_the_window_nothing_is_looked_for(world: _World) -> None:
    await world.tick(_CLOSED)
    assert world.looked == 0


async def test_a_newer_image_is_installed_and_the_lock_is_kept_over_the_restart(
    world: _World,
) -> None:
    await world.tick()
    assert (world.installed, world.restarted) == (1, 1)
    assert (world.lock.value.phase, world.lock.value.node_id) == (Phase.UPGRADING, "id1")


async def test_a_node_waits_while_another_one_upgrades(world: _World) -> None:
    world.lock.value = taken("node2", "id2", "v2", _NEW)
    await world.tick()
    assert (world.installed, world.restarted) == (0, 0)
    assert "node2 upgrades" in world.told[-1]


async def test_an_image_that_failed_elsewhere_is_not_tried(world: _World) -> None:
    world.lock.value = Rollout(phase=Phase.HALTED, node="node2", digest=_NEW, reason="bad")
    await world.tick()
    assert world.installed == 0
    assert "halted" in world.told[-1]


async def test_an_image_that_this_node_refuses_is_tried_once_in_three_calls(world: _World) -> None:
    await world.tick()
    refuse(world.node.paths, Refusal(digest=_NEW, reason="it did not boot"))
    world.error = UpgradeRefusedError("this node refuses v2")
    for _ in range(3):
        await world.tick()
    assert (world.installed, world.restarted) == (1, 1)
    assert (world.lock.value.phase, world.lock.value.reason) == (Phase.HALTED, "it did not boot")


async def test_an_upgrade_that_fails_gives_the_turn_to_another_node(world: _World) -> None:
    world.error = HostError("the registry is down")
    with pytest.raises(HostError):
        await world.tick()
    assert world.restarted == 0
    assert world.lock.value.phase == Phase.FREE


async def test_the_turn_ends_when_the_new_image_has_passed_its_check(world: _World) -> None:
    world.lock.value = taken("node1", "id1", "v2", _NEW)
    record = SnapshotRecord(digest=_NEW)
    write_record(world.node.paths.snapshots / "1", record)
    await world.tick(_CLOSED)
    assert world.lock.value.phase == Phase.UPGRADING
    write_record(world.node.paths.snapshots / "1", SnapshotRecord(digest=_NEW, confirmed_at="now"))
    await world.tick(_CLOSED)
    assert world.lock.value.phase == Phase.FREE


async def test_a_node_that_is_up_to_date_does_not_keep_the_turn(world: _World) -> None:
    world.lock.value = taken("node1", "id1", "v1", "sha256:other")
    world.needs_reboot = False
    await world.tick()
    assert world.lock.value.phase == Phase.FREE
