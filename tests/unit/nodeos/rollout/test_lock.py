"""One node of the cluster at a time."""

from typing import Any

import pytest

from qemu_node.errors import NodeError
from qemu_node.nodeos.agent.client import AgentRefusedError, LocalAgent
from qemu_node.nodeos.agent.config import AgentConfig
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

_MINE = taken("node1", "id1", "v2", "sha256:new")
_HALTED = ended(_MINE, Phase.HALTED, "it did not boot")


@pytest.mark.parametrize(
    ("rollout", "node_id", "digest", "step"),
    [
        (Rollout(), "id1", "sha256:new", Step.TAKE),
        (_MINE, "id1", "sha256:new", Step.GO_ON),
        (_MINE, "id2", "sha256:new", Step.WAIT),
        (_HALTED, "id2", "sha256:new", Step.HALTED),
        (_HALTED, "id1", "sha256:new", Step.HALTED),
        (_HALTED, "id2", "sha256:newer", Step.TAKE),
    ],
)
def test_what_a_node_may_do(rollout: Rollout, node_id: str, digest: str, step: Step) -> None:
    assert decide(rollout, node_id, digest) is step


@pytest.mark.parametrize(
    ("rollout", "running", "is_confirmed", "refused", "phase"),
    [
        (_MINE, "sha256:new", True, [], Phase.FREE),
        (_MINE, "sha256:new", False, [], None),
        (_MINE, "sha256:old", True, [], None),
        (_MINE, "sha256:old", True, ["sha256:new"], Phase.HALTED),
        (_HALTED, "sha256:new", True, [], None),
        (Rollout(), "sha256:new", True, [], None),
    ],
)
def test_how_an_upgrade_ended(
    rollout: Rollout, running: str, is_confirmed: bool, refused: list[str], phase: Phase | None
) -> None:
    found = result_of(
        rollout, "id1", running=running, is_confirmed=is_confirmed, refused=frozenset(refused)
    )
    assert found is phase
    if phase is not None:
        other = result_of(
            rollout, "id2", running=running, is_confirmed=True, refused=frozenset(refused)
        )
        assert other is None


class _Agent(LocalAgent):
    """A variable of Nomad that several nodes write."""

    def __init__(self) -> None:
        super().__init__(AgentConfig(), "")
        self.items: dict[str, str] | None = None
        self.index = 0
        self.status = 0

    async def get(self, path: str, kind: type[Any]) -> Any:
        if self.status:
            raise AgentRefusedError(path, self.status, "no")
        if self.items is None:
            raise AgentRefusedError(path, 404, "variable not found")
        return kind(items=self.items, modify_index=self.index)

    async def put(self, path: str, body: Any, kind: type[Any]) -> Any:
        if path.partition("?cas=")[2] != str(self.index):
            raise AgentRefusedError(path, 409, "cas conflict")
        self.items, self.index = body["Items"], self.index + 7
        return kind(items=self.items, modify_index=self.index)


async def test_of_two_nodes_that_want_it_one_gets_it() -> None:
    agent = _Agent()
    first, second = RolloutLock(agent, "qemu-node/os"), RolloutLock(agent, "qemu-node/os")
    assert (await first.read()).phase == Phase.FREE
    assert (await second.read()).phase == Phase.FREE
    assert await first.write(_MINE)
    assert not await second.write(taken("node2", "id2", "v2", "sha256:new"))
    assert (await second.read()).node == "node1"
    assert await first.write(ended(_MINE, Phase.FREE))
    assert (await second.read()).phase == Phase.FREE
    assert await second.write(taken("node2", "id2", "v2", "sha256:new"))


async def test_a_token_that_may_not_is_told_with_what_to_do() -> None:
    agent = _Agent()
    agent.status = 403
    with pytest.raises(NodeError, match="may not use the Nomad variable") as caught:
        await RolloutLock(agent, "qemu-node/os").read()
    assert "os.token_file" in str(caught.value.hint)


async def test_a_variable_of_somebody_else_is_left_alone() -> None:
    agent = _Agent()
    agent.items, agent.index = {"phase": 5}, 3  # type: ignore[dict-item]
    with pytest.raises(NodeError, match="something else"):
        await RolloutLock(agent, "qemu-node/os").read()
