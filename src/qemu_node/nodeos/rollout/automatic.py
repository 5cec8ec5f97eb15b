"""An upgrade without anybody: in its window, one node of the cluster at a time, once per image.

Owns the order of these. A timer calls it every quarter of an hour; it does nothing unless
`os.automatic` is set. Whatever hinders it is a reason to wait for the next call.
"""

import asyncio
import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass

from qemu_node.config.node import NodeConfig
from qemu_node.errors import NodeError
from qemu_node.nodeos.agent.client import NotAClientError, read_identity
from qemu_node.nodeos.ledger.refusals import read_refused
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.rollout.lock import (
    Phase,
    Rollout,
    RolloutLock,
    Step,
    decide,
    ended,
    result_of,
    taken,
)
from qemu_node.nodeos.rollout.window import is_open
from qemu_node.nodeos.shutdown.restart import restart
from qemu_node.nodeos.snapshots.facts import Facts, read_facts
from qemu_node.nodeos.upgrade.run import (
    UpgradeOptions,
    UpgradeRefusedError,
    UpgradeResult,
    upgrade,
)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """This node's part in the roll-out."""

    lock: RolloutLock
    node_id: str


def join_cluster(paths: NodePaths, config: NodeConfig) -> Cluster | None:
    """Return this node's part in the roll-out; None if it is alone, or no lock is wanted.

    Raises:
        NodeError: the configuration cannot be read.
    """
    if not config.os.lock:
        return None
    try:
        identity = read_identity(paths)
    except NotAClientError:
        return None
    return Cluster(lock=RolloutLock.of_node(paths, config.os), node_id=identity.node_id)


async def tick(paths: NodePaths, config: NodeConfig, tell: Tell, *, now: datetime.datetime) -> None:
    """Do what is due at `now`, in the node's local time.

    Raises:
        NodeError: something hindered it; the next call tries again.
    """
    if not config.os.automatic:
        return
    cluster = await asyncio.to_thread(join_cluster, paths, config)
    if cluster is not None:
        await report_end(paths, cluster, tell)
    if not is_open(config.os.parsed_window, now):
        return
    try:
        looked = await upgrade(paths, config, UpgradeOptions(only_check=True), tell)
    except UpgradeRefusedError as exc:
        tell(f"not upgraded: {exc}")
        return
    if not looked.needs_reboot:
        tell(f"{looked.target.name} runs already")
        if cluster is not None:
            await give_back(cluster)
        return
    if cluster is not None and not await begin(cluster, looked, tell):
        return
    try:
        done = await upgrade(paths, config, UpgradeOptions(), tell)
    except NodeError:
        if cluster is not None:
            # It was not the image: another node may try.
            await give_back(cluster)
        raise
    await restart(
        paths,
        reason=f"upgrade to {done.target.name}",
        drain_timeout_s=config.os.drain_timeout_s,
        tell=tell,
    )


async def begin(cluster: Cluster, looked: UpgradeResult, tell: Tell) -> bool:
    """Take the cluster's lock; False if it is not this node's turn."""
    rollout = await cluster.lock.read()
    target = looked.target
    match decide(rollout, cluster.node_id, target.digest):
        case Step.GO_ON if rollout.digest == target.digest:
            return True
        case Step.WAIT:
            tell(f"{rollout.node} upgrades since {rollout.since}: this node waits")
            return False
        case Step.HALTED:
            tell(
                f"{target.name} failed on {rollout.node} ({rollout.reason}): the roll-out is "
                "halted until there is a newer image or `qemu-node os rollout --clear`"
            )
            return False
        case Step.TAKE | Step.GO_ON:
            entry = taken(os.uname().nodename, cluster.node_id, target.tag, target.digest)
            has_it = await cluster.lock.write(entry)
            if not has_it:
                tell("another node was faster: this one waits")
            return has_it


async def give_back(cluster: Cluster) -> None:
    """Give the lock back, if it is this node's."""
    rollout = await cluster.lock.read()
    if rollout.phase == Phase.UPGRADING and rollout.node_id == cluster.node_id:
        await cluster.lock.write(ended(rollout, Phase.FREE))


async def report_end(paths: NodePaths, cluster: Cluster, tell: Tell) -> None:
    """Give the lock back if this node has upgraded, or halt the roll-out if that failed.

    Raises:
        NodeError: Nomad does not answer.
    """
    rollout = await cluster.lock.read()
    facts = await asyncio.to_thread(read_facts, paths)
    phase = _result(rollout, cluster.node_id, facts)
    if phase is None:
        return
    reason = ""
    if phase is Phase.HALTED:
        refusals = await asyncio.to_thread(read_refused, paths)
        reason = next((r.reason for r in refusals if r.digest == rollout.digest), "")
    await cluster.lock.write(ended(rollout, phase, reason))
    tell(f"the roll-out of {rollout.tag or rollout.digest} is {phase}")


def _result(rollout: Rollout, node_id: str, facts: Facts) -> Phase | None:
    booted = facts.find(facts.booted)
    return result_of(
        rollout,
        node_id,
        running=booted.digest if booted else "",
        is_confirmed=booted is not None and booted.is_confirmed,
        refused=facts.refused,
    )
