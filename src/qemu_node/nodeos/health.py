"""Whether this node does what it is for: the check that decides whether a new image stays.

Owns the questions and the judgement (`find_faults`, pure). A node that has no data partition or no
configuration yet is whole: an installation is confirmed before an operator has done anything.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from qemu_node.errors import NodeError
from qemu_node.host.process.command import run
from qemu_node.nodeos.agent.client import (
    AgentError,
    AgentRefusedError,
    DriverInfo,
    LocalAgent,
    read_identity,
    read_node,
)
from qemu_node.nodeos.agent.config import is_configured, read_agent_config
from qemu_node.nodeos.paths import NodePaths
from qemu_node.text import DECODE_ERRORS

TIMEOUT_S = 120.0
"""How long a node may take after its boot; less than the unit's time limit."""

_PAUSE_S = 3.0
_TOOL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """What the check looks at. None: not asked, because it is not expected."""

    has_address: bool
    has_data: bool
    """Whether there is a file system with the label DATA."""
    is_data_mounted: bool
    has_config: bool
    """Whether Nomad is configured, so that it must run."""
    nomad_state: str | None = None
    """What systemd says of nomad.service."""
    agent_problem: str | None = None
    """Why the agent does not answer or says that it is not well; None if it is."""
    driver: DriverInfo | None = None
    """The driver, as Nomad sees it. None if this node is no client."""


def find_faults(facts: HealthFacts) -> list[str]:
    """Return what is not as it should be; nothing if the node is well."""
    faults = []
    if not facts.has_address:
        faults.append("no network: no interface has an address")
    if facts.has_data and not facts.is_data_mounted:
        faults.append("/data is not mounted, though there is a file system with the label DATA")
    if not facts.has_config:
        return faults
    if facts.nomad_state != "active":
        faults.append(f"nomad.service is {facts.nomad_state or 'not there'}")
    elif facts.agent_problem is not None:
        faults.append(f"Nomad's agent: {facts.agent_problem}")
    elif facts.driver is not None and not facts.driver.healthy:
        reason = facts.driver.health_description or "no reason"
        faults.append(f"the driver vm is not healthy: {reason}")
    return faults


class _Health(msgspec.Struct):
    ok: bool = False
    message: str = ""


class _AgentHealth(msgspec.Struct):
    """GET /v1/agent/health; needs no token."""

    client: _Health | None = None
    server: _Health | None = None


async def read_health(paths: NodePaths) -> HealthFacts:
    """Return the facts of this moment. Whatever cannot be asked is a fault, no exception."""
    base = HealthFacts(
        has_address=await _has_address(),
        has_data=paths.data_device.exists(),
        is_data_mounted=paths.data.is_mount(),
        has_config=is_configured(paths.config),
    )
    if not base.has_config:
        return base
    state = await _unit_state("nomad.service")
    if state != "active":
        # Reading its configuration at each turn would take the CPU that its start needs.
        return replace(base, nomad_state=state)
    problem: str | None = None
    driver: DriverInfo | None = None
    try:
        problem, driver = await _ask_agent(paths)
    except (NodeError, OSError) as exc:
        problem = str(exc)
    return replace(base, nomad_state=state, agent_problem=problem, driver=driver)


async def _ask_agent(paths: NodePaths) -> tuple[str | None, DriverInfo | None]:
    config = await asyncio.to_thread(read_agent_config, paths.config)
    try:
        said = await LocalAgent(config, "").get("/v1/agent/health", _AgentHealth)
    except AgentRefusedError as exc:
        return str(exc), None
    for part in (said.client, said.server):
        if part is not None and not part.ok:
            return part.message or "it is not well", None
    if not config.is_client:
        return None, None
    identity = read_identity(paths)
    try:
        node = await read_node(LocalAgent.of_node(paths, identity), identity.node_id)
    except AgentError as exc:
        return str(exc), None
    return None, node.vm_driver or DriverInfo(health_description="Nomad does not have it")


class _Address(msgspec.Struct):
    scope: str = ""


class _Link(msgspec.Struct):
    ifname: str = ""
    addr_info: list[_Address] = []


async def _has_address() -> bool:
    """Tell whether an interface that is up has an address by which others reach this node."""
    try:
        done = await run(["ip", "-json", "address", "show", "up"], timeout_s=_TOOL_TIMEOUT_S)
        links = msgspec.json.decode(done.stdout, type=list[_Link])
    except (NodeError, *DECODE_ERRORS):
        return False
    return any(
        address.scope == "global"
        for link in links
        if link.ifname != "lo"
        for address in link.addr_info
    )


async def _unit_state(unit: str) -> str | None:
    """Return `active`, `activating` and so on; None if systemd does not answer."""
    try:
        argv = ["systemctl", "is-active", unit]
        done = await run(argv, timeout_s=_TOOL_TIMEOUT_S, check=False)
    except NodeError:
        return None
    return done.stdout.decode(errors="replace").strip() or None


async def wait_until_well(
    paths: NodePaths,
    *,
    timeout_s: float = TIMEOUT_S,
    tell: Callable[[str], object] = lambda _line: None,
) -> list[str]:
    """Return no faults as soon as the node is well, else those that are left when time is up.

    Args:
        paths: The node's.
        timeout_s: How long to wait.
        tell: Receives the faults when they change.
    """
    deadline = time.monotonic() + timeout_s
    told: list[str] = []
    while True:
        faults = find_faults(await read_health(paths))
        if not faults or time.monotonic() >= deadline:
            return faults
        if faults != told:
            tell("; ".join(faults))
            told = faults
        await asyncio.sleep(_PAUSE_S)
