import msgspec
import pytest

from qemu_node.nodeos.agent.client import DriverInfo, LastDrain, NodeInfo
from qemu_node.nodeos.shutdown.plan import (
    META_KEY,
    DrainChoice,
    UndoChoice,
    plan_drain,
    plan_undo,
)

HEALTHY = {"vm": DriverInfo(detected=True, healthy=True)}
NODE = NodeInfo(
    id="a", node_pool="default", status="ready", scheduling_eligibility="eligible", drivers=HEALTHY
)
OTHER = msgspec.structs.replace(NODE, id="b")


def changed(node: NodeInfo, **fields: object) -> NodeInfo:
    return msgspec.structs.replace(node, **fields)


def drained(meta: dict[str, str] | None) -> NodeInfo:
    return changed(NODE, scheduling_eligibility="ineligible", last_drain=LastDrain(meta=meta))


def test_a_node_whose_vms_have_somewhere_to_go_is_drained() -> None:
    assert plan_drain(NODE, [NODE, OTHER], None) is DrainChoice.DRAIN


@pytest.mark.parametrize(
    "other",
    [
        NODE,
        changed(OTHER, status="down"),
        changed(OTHER, scheduling_eligibility="ineligible"),
        changed(OTHER, drain=True),
        changed(OTHER, node_pool="gpu"),
        changed(OTHER, drivers=None),
        changed(OTHER, drivers={"vm": DriverInfo(detected=True, healthy=False)}),
    ],
)
def test_vms_stay_where_no_other_node_can_take_them(other: NodeInfo) -> None:
    assert plan_drain(NODE, [NODE, other], None) is DrainChoice.ALONE


def test_a_drain_of_ours_is_waited_for() -> None:
    assert plan_drain(drained({META_KEY: "m"}), [OTHER], "m") is DrainChoice.GO_ON


@pytest.mark.parametrize("marker", [None, "m"])
@pytest.mark.parametrize("meta", [None, {}, {META_KEY: "another"}])
def test_an_operators_drain_is_not_touched(marker: str | None, meta: dict[str, str] | None) -> None:
    assert plan_drain(drained(meta), [OTHER], marker) is DrainChoice.OPERATOR


def test_only_a_drain_of_ours_is_undone() -> None:
    assert plan_undo(drained({META_KEY: "m"}), "m") is UndoChoice.UNDO
    assert plan_undo(drained({META_KEY: "n"}), "m") is UndoChoice.OPERATOR
    assert plan_undo(drained(None), "m") is UndoChoice.OPERATOR
    assert plan_undo(NODE, "m") is UndoChoice.DONE
