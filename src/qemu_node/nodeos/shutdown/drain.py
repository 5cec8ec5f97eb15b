"""Draining this node before it goes down, and ending the drain once it is back.

Owns asking Nomad and waiting. Does not own whether to (`plan`), nor the end of VMs that stay on the
node (`inventory.stopall`, called by qemu-node-vms.service in every shutdown).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qemu_node.nodeos.agent.client import (
    AgentError,
    AgentRefusedError,
    Identity,
    LocalAgent,
    NodeInfo,
    list_nodes,
    read_identity,
    read_node,
)
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.shutdown.marker import read_marker, remove_marker, write_marker
from qemu_node.nodeos.shutdown.plan import (
    META_KEY,
    DrainChoice,
    UndoChoice,
    plan_drain,
    plan_undo,
)

DEFAULT_TIMEOUT_S = 600.0

_POLL_S = 2.0
_AFTER_DEADLINE_S = 60.0
"""After the deadline Nomad stops what is left, each task within its kill_timeout."""
_NS_PER_S = 1_000_000_000

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What a drain did."""

    choice: DrainChoice
    is_complete: bool
    """Nothing is left to wait for; False: work was still on the node when the time was up."""


async def drain(
    paths: NodePaths,
    *,
    reason: str,
    tell: Tell,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Drained:
    """Drain this node if another one can take its VMs, and return when it is empty.

    Nothing is lost if it fails or is given up: every shutdown ends the VMs that are still there.

    Args:
        paths: The node's.
        reason: Why, for people who look at the node in Nomad.
        tell: Receives a line for each thing that is done.
        timeout_s: When Nomad stops waiting for a better moment to move work. The last tasks get
            their kill_timeout after that, at most a minute of which is waited for.

    Raises:
        NotAClientError: the node is none in Nomad, so there is nothing to drain.
        AgentError: Nomad does not answer; the node may be draining.
        ConfigError: Nomad's configuration cannot be read.
        HostError: the marker cannot be written; nothing was done.
    """
    identity = read_identity(paths)
    agent = LocalAgent.of_node(paths, identity)
    node = await read_node(agent, identity.node_id)
    choice = plan_drain(node, await list_nodes(agent), read_marker(paths))
    if choice is DrainChoice.ALONE:
        tell("no other node can take the VMs: they are stopped with this one and start again here")
        return Drained(choice=choice, is_complete=True)
    if choice is DrainChoice.OPERATOR:
        tell("somebody else has drained the node or made it ineligible; that stays as it is")
    if choice is DrainChoice.DRAIN:
        tell(f"draining the node, for at most {timeout_s:g} s")
        await _set_drain(
            agent,
            identity,
            spec={"Deadline": int(timeout_s * _NS_PER_S), "IgnoreSystemJobs": False},
            meta={"message": reason, META_KEY: write_marker(paths)},
        )
    return Drained(
        choice=choice,
        is_complete=await _until_drained(agent, identity, timeout_s + _AFTER_DEADLINE_S, tell),
    )


async def undo_drain(
    paths: NodePaths, *, tell: Tell, timeout_s: float = DEFAULT_TIMEOUT_S
) -> UndoChoice | None:
    """End the drain that `drain` began, so that the node takes work again. Idempotent.

    None: we have not drained it, so nothing was done.

    Args:
        paths: The node's.
        tell: Receives a line for each thing that is done.
        timeout_s: How long to try, as the cluster may not have a leader yet.

    Raises:
        NotAClientError: the node is none in Nomad.
        AgentError: Nomad did not answer in time; call again.
        HostError: the marker cannot be read or removed.
    """
    marker = read_marker(paths)
    if marker is None:
        return None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        try:
            return await _undo(paths, marker, tell)
        except AgentError as exc:
            if loop.time() >= deadline:
                raise
            tell(f"Nomad is not ready yet: {exc}")
        await asyncio.sleep(_POLL_S)


async def _undo(paths: NodePaths, marker: str, tell: Tell) -> UndoChoice:
    identity = read_identity(paths)
    agent = LocalAgent.of_node(paths, identity)
    choice = plan_undo(await read_node(agent, identity.node_id), marker)
    match choice:
        case UndoChoice.UNDO:
            await _set_drain(
                agent, identity, spec=None, meta={"cancel_message": "the node is back"}
            )
            tell("the node takes work again")
        case UndoChoice.OPERATOR:
            tell("somebody has drained the node since; that stays as it is")
        case UndoChoice.DONE:
            tell("the node takes work already")
    remove_marker(paths)
    return choice


async def _set_drain(
    agent: LocalAgent, identity: Identity, *, spec: dict[str, object] | None, meta: dict[str, str]
) -> None:
    body = {"DrainSpec": spec, "MarkEligible": spec is None, "Meta": meta}
    await agent.put(f"/v1/node/{identity.node_id}/drain", body, dict[str, Any])


async def _until_drained(agent: LocalAgent, identity: Identity, limit_s: float, tell: Tell) -> bool:
    """Return True once the drain is over, False when the time is up before.

    Nomad ends a drain when all that it had to move has ended on this node
    (nomad/drainer/draining_node.go, `IsDone`).
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while True:
        node: NodeInfo | None = None
        try:
            node = await read_node(agent, identity.node_id)
        except AgentError as exc:
            if isinstance(exc, AgentRefusedError) and exc.status < 500:
                raise
            # The leader may just be another one.
            tell(f"waiting for Nomad: {exc}")
        if node is not None and not node.is_draining:
            tell("the node is drained")
            return True
        if loop.time() >= deadline:
            tell("the time for the drain is up; what still runs is stopped with the node")
            return False
        await asyncio.sleep(_POLL_S)
