from pathlib import Path
from typing import Any

import msgspec
import pytest

from qemu_node.nodeos.agent import client
from qemu_node.nodeos.agent.client import AgentError, AgentRefusedError, NotAClientError
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.shutdown import drain as shutdown
from qemu_node.nodeos.shutdown.plan import META_KEY, DrainChoice, UndoChoice

NODE_ID = "11111111-2222-3333-4444-555555555555"
DRIVERS = {"vm": {"Detected": True, "Healthy": True}}


class FakeNomad:
    """The part of Nomad's API that a drain uses; a drain takes a few looks at the node."""

    def __init__(self, *, has_other: bool = True) -> None:
        self.node: dict[str, Any] = {
            "ID": NODE_ID,
            "NodePool": "default",
            "Status": "ready",
            "SchedulingEligibility": "eligible",
            "Drivers": DRIVERS,
        }
        self.has_other = has_other
        self.looks_until_drained: float = 2
        self.answers_before_failures = 0
        self.failures: list[AgentError] = []
        self.drains: list[dict[str, Any]] = []

    async def get(self, path: str, kind: Any) -> Any:
        if self.answers_before_failures:
            self.answers_before_failures -= 1
        elif self.failures:
            raise self.failures.pop(0)
        if path == "/v1/nodes":
            others = [{**self.node, "ID": "other"}] if self.has_other else []
            return msgspec.convert([self.node, *others], kind)
        assert path == f"/v1/node/{NODE_ID}"
        if self.node.get("DrainStrategy"):
            self.looks_until_drained -= 1
            if self.looks_until_drained <= 0:
                self.node["DrainStrategy"] = None
        return msgspec.convert(self.node, kind)

    async def put(self, path: str, body: Any, _kind: Any) -> Any:
        assert path == f"/v1/node/{NODE_ID}/drain"
        self.drains.append(body)
        self.node["LastDrain"] = {"Meta": body["Meta"]}
        self.node["DrainStrategy"] = body["DrainSpec"] and {"IgnoreSystemJobs": False}
        is_eligible = body["DrainSpec"] is None and body["MarkEligible"]
        self.node["SchedulingEligibility"] = "eligible" if is_eligible else "ineligible"
        return {}


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    paths = NodePaths(tmp_path)
    paths.nomad_node_id.parent.mkdir(parents=True)
    paths.nomad_node_id.write_text(NODE_ID)
    paths.nomad_node_secret.write_text("secret\n")
    paths.config.mkdir(parents=True)
    return paths


@pytest.fixture
def nomad(monkeypatch: pytest.MonkeyPatch) -> FakeNomad:
    fake = FakeNomad()

    def of_node(_paths: NodePaths, identity: client.Identity) -> FakeNomad:
        assert identity.secret == "secret"
        return fake

    monkeypatch.setattr(client.LocalAgent, "of_node", of_node)
    monkeypatch.setattr(shutdown, "_POLL_S", 0.001)
    monkeypatch.setattr(shutdown, "_AFTER_DEADLINE_S", 0.0)
    return fake


async def drain(paths: NodePaths, timeout_s: float = 60.0) -> shutdown.Drained:
    return await shutdown.drain(
        paths, reason="an upgrade", tell=lambda _line: None, timeout_s=timeout_s
    )


async def undo(paths: NodePaths) -> UndoChoice | None:
    return await shutdown.undo_drain(paths, tell=lambda _line: None, timeout_s=60.0)


async def test_the_node_is_drained_and_after_the_boot_takes_work_again(
    paths: NodePaths, nomad: FakeNomad
) -> None:
    drained = await drain(paths)
    assert (drained.choice, drained.is_complete) == (DrainChoice.DRAIN, True)
    (asked,) = nomad.drains
    assert asked["DrainSpec"] == {"Deadline": 60_000_000_000, "IgnoreSystemJobs": False}
    assert asked["Meta"]["message"] == "an upgrade"
    assert paths.drained.read_text().strip() == asked["Meta"][META_KEY]
    assert await undo(paths) is UndoChoice.UNDO
    assert nomad.node["SchedulingEligibility"] == "eligible"
    assert not paths.drained.exists()
    assert await undo(paths) is None


async def test_a_node_alone_is_not_drained(paths: NodePaths, nomad: FakeNomad) -> None:
    nomad.has_other = False
    drained = await drain(paths)
    assert (drained.choice, drained.is_complete) == (DrainChoice.ALONE, True)
    assert nomad.drains == []
    assert not paths.drained.exists()


async def test_an_operators_drain_is_waited_for_and_never_undone(
    paths: NodePaths, nomad: FakeNomad
) -> None:
    nomad.node |= {
        "SchedulingEligibility": "ineligible",
        "DrainStrategy": {"IgnoreSystemJobs": False},
        "LastDrain": {"Meta": {"message": "mine"}},
    }
    assert (await drain(paths)).choice is DrainChoice.OPERATOR
    assert nomad.drains == []
    assert await undo(paths) is None
    assert nomad.node["SchedulingEligibility"] == "ineligible"


async def test_a_drain_that_does_not_end_is_given_up_in_time(
    paths: NodePaths, nomad: FakeNomad
) -> None:
    nomad.looks_until_drained = float("inf")
    assert not (await drain(paths, timeout_s=0.05)).is_complete
    assert paths.drained.exists()


async def test_a_second_call_goes_on_with_the_first_ones_drain(
    paths: NodePaths, nomad: FakeNomad
) -> None:
    nomad.looks_until_drained = float("inf")
    await drain(paths, timeout_s=0.01)
    nomad.looks_until_drained = 1
    drained = await drain(paths)
    assert (drained.choice, drained.is_complete) == (DrainChoice.GO_ON, True)
    assert len(nomad.drains) == 1


async def test_a_leader_that_is_elected_meanwhile_ends_neither_call(
    paths: NodePaths, nomad: FakeNomad
) -> None:
    nomad.answers_before_failures = 2
    nomad.failures = [AgentRefusedError("GET", 500, "No cluster leader"), AgentError("refused")]
    assert (await drain(paths)).is_complete
    nomad.failures = [AgentRefusedError("GET", 500, "No cluster leader"), AgentError("refused")]
    assert await undo(paths) is UndoChoice.UNDO


async def test_a_drain_that_was_never_begun_leaves_only_its_marker_to_remove(
    paths: NodePaths, nomad: FakeNomad
) -> None:
    paths.own.mkdir(parents=True)
    paths.drained.write_text("lost\n")
    assert await undo(paths) is UndoChoice.DONE
    assert nomad.drains == []
    assert not paths.drained.exists()


async def test_a_node_that_is_no_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotAClientError, match="no client of Nomad"):
        await drain(NodePaths(tmp_path))
