"""One node of the cluster at a time: who upgrades is written in a variable of Nomad.

Owns that variable. It is changed by compare-and-set, so of two nodes that want it one gets it. No
time limit takes it away: a node that does not come back keeps it, and the others wait, which is
what a roll-out should do then. A node that comes back with the old image writes down that the
roll-out is halted; a newer image, or an operator, starts it again.

Source: Nomad's website/content/api-docs/variables/variables.mdx.
"""

from enum import StrEnum

import msgspec

from qemu_node.config.nodeos import OsConfig
from qemu_node.errors import ConfigError, NodeError
from qemu_node.nodeos.agent.client import AgentRefusedError, LocalAgent
from qemu_node.nodeos.agent.config import read_agent_config
from qemu_node.nodeos.ledger.lines import now
from qemu_node.nodeos.paths import NodePaths

_NOT_FOUND = 404
_FORBIDDEN = 403
_CONFLICT = 409


class Phase(StrEnum):
    """What the variable says."""

    FREE = "free"
    UPGRADING = "upgrading"
    HALTED = "halted"


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the variable: words only, as Nomad has it."""

    phase: str = Phase.FREE
    node: str = ""
    node_id: str = ""
    tag: str = ""
    digest: str = ""
    since: str = ""
    reason: str = ""


class Step(StrEnum):
    """What a node may do."""

    TAKE = "take"
    """Nobody upgrades: take the variable."""
    GO_ON = "go on"
    """It is ours already."""
    WAIT = "wait"
    """Another node upgrades."""
    HALTED = "halted"
    """This image failed on a node of the cluster."""


def decide(rollout: Rollout, node_id: str, digest: str) -> Step:
    """Return what the node `node_id` may do about the image `digest`: pure."""
    if rollout.phase == Phase.UPGRADING:
        return Step.GO_ON if rollout.node_id == node_id else Step.WAIT
    if rollout.phase == Phase.HALTED and rollout.digest == digest:
        return Step.HALTED
    return Step.TAKE


def result_of(
    rollout: Rollout, node_id: str, *, running: str, is_confirmed: bool, refused: frozenset[str]
) -> Phase | None:
    """Return how the upgrade of this node ended; None if it is not ours, or has not ended: pure.

    Args:
        rollout: The variable.
        node_id: This node.
        running: The digest of the running image.
        is_confirmed: Whether that has passed the health check.
        refused: The digests that this node refuses.
    """
    if rollout.phase != Phase.UPGRADING or rollout.node_id != node_id:
        return None
    if rollout.digest in refused:
        return Phase.HALTED
    return Phase.FREE if running == rollout.digest and is_confirmed else None


class _Variable(msgspec.Struct, rename="pascal"):
    items: dict[str, str] = {}
    modify_index: int = 0


class RolloutLock:
    """The variable in Nomad."""

    def __init__(self, agent: LocalAgent, path: str) -> None:
        self._agent = agent
        self._path = path
        self._index = 0

    @classmethod
    def of_node(cls, paths: NodePaths, settings: OsConfig) -> "RolloutLock":
        """Return the cluster's variable, asked for by this node's agent.

        Raises:
            ConfigError: the agent's configuration or the token cannot be read.
        """
        token = ""
        if settings.token_file:
            try:
                with open(settings.token_file) as file:  # noqa: PTH123 - bounded below
                    token = file.read(256).strip()
            except (OSError, UnicodeDecodeError) as exc:
                raise ConfigError(f"os.token_file {settings.token_file}: {exc}") from exc
        return cls(LocalAgent(read_agent_config(paths.config), token), settings.lock)

    async def read(self) -> Rollout:
        """Return what the variable says; that it is free if there is none.

        Raises:
            AgentError: Nomad does not answer, or refuses.
        """
        try:
            found = await self._agent.get(f"/v1/var/{self._path}", _Variable)
        except AgentRefusedError as exc:
            if exc.status != _NOT_FOUND:
                raise self._refused(exc) from exc
            self._index = 0
            return Rollout()
        self._index = found.modify_index
        try:
            return msgspec.convert(found.items, Rollout)
        except msgspec.ValidationError:
            raise NodeError(
                f"the Nomad variable {self._path} holds something else",
                hint="set os.lock in node.toml to another path, or purge it",
            ) from None

    async def write(self, rollout: Rollout) -> bool:
        """Write the variable; False if it has changed since it was read.

        Raises:
            AgentError: Nomad does not answer, or refuses.
        """
        body = {"Path": self._path, "Items": msgspec.to_builtins(rollout)}
        try:
            written = await self._agent.put(
                f"/v1/var/{self._path}?cas={self._index}", body, _Variable
            )
        except AgentRefusedError as exc:
            if exc.status == _CONFLICT:
                return False
            raise self._refused(exc) from exc
        self._index = written.modify_index
        return True

    def _refused(self, exc: AgentRefusedError) -> NodeError:
        if exc.status != _FORBIDDEN:
            return exc
        return NodeError(
            f"the token may not use the Nomad variable {self._path}",
            hint="give this node a token with a policy for it by os.token_file, docs/os-upgrade.md",
        )


def taken(node: str, node_id: str, tag: str, digest: str) -> Rollout:
    """Return what a node writes that begins to upgrade."""
    return Rollout(
        phase=Phase.UPGRADING, node=node, node_id=node_id, tag=tag, digest=digest, since=now()
    )


def ended(rollout: Rollout, phase: Phase, reason: str = "") -> Rollout:
    """Return what a node writes whose upgrade has ended."""
    if phase is Phase.FREE:
        return Rollout(phase=Phase.FREE, since=now())
    return msgspec.structs.replace(rollout, phase=phase, reason=reason, since=now())
