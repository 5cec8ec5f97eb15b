"""Whether a node is drained before it goes down, and whether that is undone afterwards: pure.

Owns both decisions. A drained VM starts anew on another node; a VM that is stopped with its node
starts again on this one, with its allocation, as soon as the node is back. So a drain makes sense
only if another node can take the VMs. What an operator has set stays as it is.
"""

from collections.abc import Sequence
from enum import StrEnum

from qemu_node.nodeos.agent.client import NodeInfo

META_KEY = "qemu_node_drain"
"""The drain's metadata that holds our marker, by which it is known as ours."""


class DrainChoice(StrEnum):
    """What is done before the node goes down."""

    DRAIN = "drain"
    GO_ON = "go-on"
    """An earlier call has begun it: wait for its end."""
    OPERATOR = "operator"
    """Somebody else has drained the node or made it ineligible, and will end that himself."""
    ALONE = "alone"
    """No other node can take the work."""


class UndoChoice(StrEnum):
    """What is done once the node is back."""

    UNDO = "undo"
    DONE = "done"
    """The node takes work already; only the marker is left to remove."""
    OPERATOR = "operator"
    """Somebody has drained the node since; the marker goes, the drain stays."""


def plan_drain(node: NodeInfo, nodes: Sequence[NodeInfo], marker: str | None) -> DrainChoice:
    """Return what to do about `node`.

    Args:
        node: This node.
        nodes: All nodes of the region.
        marker: What we have written down about a drain of ours; None: there is none.
    """
    if not node.is_eligible or node.is_draining:
        return DrainChoice.GO_ON if is_ours(node, marker) else DrainChoice.OPERATOR
    return (
        DrainChoice.DRAIN
        if any(can_take_over(node, other) for other in nodes)
        else (DrainChoice.ALONE)
    )


def can_take_over(node: NodeInfo, other: NodeInfo) -> bool:
    """Tell whether `other` may get VMs of `node`."""
    return (
        other.id != node.id
        and other.status == "ready"
        and other.is_eligible
        and not other.is_draining
        and other.node_pool == node.node_pool
        and other.runs_vms
    )


def plan_undo(node: NodeInfo, marker: str) -> UndoChoice:
    """Return what to do about the drain that `marker` stands for."""
    if node.is_eligible and not node.is_draining:
        return UndoChoice.DONE
    return UndoChoice.UNDO if is_ours(node, marker) else UndoChoice.OPERATOR


def is_ours(node: NodeInfo, marker: str | None) -> bool:
    """Tell whether the node's last drain is the one that `marker` stands for."""
    meta = (node.last_drain.meta if node.last_drain else None) or {}
    return marker is not None and meta.get(META_KEY) == marker
