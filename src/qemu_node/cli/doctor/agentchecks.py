"""What a Nomad agent needs for the driver, judged one thing at a time: pure.

Owns what is good enough and what to do about the rest: docs/plain-debian.md has the steps. Does not
own finding out (`agentfacts`). Nothing is checked on a machine without Nomad: `qemu-node run` does
without.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from qemu_node.cli.doctor.checks import Check, fail, ok, warn
from qemu_node.errors import NodeError
from qemu_node.nodeos.agent.client import DRIVER_NAME, DriverInfo
from qemu_node.nodeos.agent.config import AgentConfig

PAGE = "docs/plain-debian.md"
OLDEST_NOMAD = (1, 11, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The `nomad` program."""

    path: str
    version: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """Nomad on this machine."""

    program: Program | NodeError | None = None
    """None: there is none."""
    address: str = ""
    """Of the agent's HTTP API."""
    problem: str | None = None
    """Why the agent at `address` did not answer."""
    host_name: str = ""
    """Of the node that answered; empty if it is this machine."""
    config: AgentConfig | None = None
    """The running agent's; else that of /etc/nomad.d. None if neither can be read."""
    driver: DriverInfo | None = None
    """What the node of a running agent says of the driver; None: no agent says anything."""
    plugin_problem: str | None = None
    """Why the plugin file does not start."""
    kill_mode: str | None = None
    """Of nomad.service; None: there is no such unit."""
    room: int = 0
    """How many VMs of 1 GiB fit into this machine's memory."""


def judge_agent(facts: AgentFacts) -> Iterator[Check]:
    """Yield the checks of everything that Nomad on this machine makes necessary."""
    yield check_nomad(facts.program)
    if not isinstance(facts.program, Program):
        return
    yield check_agent(facts)
    if facts.host_name:
        return
    if facts.config is not None:
        yield check_plugin_block(facts.config)
        if DRIVER_NAME in facts.config.plugins:
            yield check_plugin_file(facts.config, facts.plugin_problem)
            yield check_gc(facts.config.gc_max_allocs, facts.room)
            if facts.driver is not None:
                yield check_driver(facts.driver)
    if facts.kill_mode is not None:
        yield check_kill_mode(facts.kill_mode)


def check_nomad(found: Program | NodeError | None) -> Check:
    """Judge the Nomad program, which `qemu-node run` does without; None: there is none."""
    if found is None:
        return ok("Nomad", "not installed; `qemu-node run` does without")
    if isinstance(found, NodeError):
        return warn("Nomad", str(found), found.hint or "reinstall it")
    text = f"{_dotted(found.version)}, {found.path}"
    if found.version < OLDEST_NOMAD:
        return warn("Nomad", text, f"the driver needs Nomad {_dotted(OLDEST_NOMAD)} or newer")
    return ok("Nomad", text)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def check_agent(facts: AgentFacts) -> Check:
    """Judge whether the agent of this machine answers."""
    if facts.problem is not None and "denied" in facts.problem:
        return warn(
            "agent",
            f"{facts.address} refuses: {facts.problem}",
            'export NOMAD_TOKEN=… of a policy with agent { policy = "read" } and '
            'node { policy = "read" }',
        )
    if facts.problem is not None:
        return warn(
            "agent",
            f"{facts.address} does not answer: {facts.problem}",
            "systemctl start nomad; or export NOMAD_ADDR=… if it listens elsewhere",
        )
    if facts.host_name:
        return warn(
            "agent",
            f"{facts.address} is the agent of {facts.host_name}, not of this machine",
            "run this on that machine, or set NOMAD_ADDR to the agent of this one",
        )
    return ok("agent", facts.address)


def check_plugin_block(config: AgentConfig) -> Check:
    """Judge whether the agent is told to load the plugin."""
    if DRIVER_NAME in config.plugins:
        return ok("plugin conf", 'the agent\'s configuration has a block plugin "vm"')
    return warn(
        "plugin conf",
        'no block plugin "vm" in the agent\'s configuration: Nomad does not load the driver',
        f'add plugin "vm" {{}} and restart the agent: {PAGE}',
    )


def check_plugin_file(config: AgentConfig, problem: str | None) -> Check:
    """Judge whether what the agent would start is there and starts."""
    if not config.plugins_dir:
        return warn("plugin file", "plugin_dir is not set in the agent's configuration", PAGE)
    path = f"{config.plugins_dir}/{DRIVER_NAME}"
    if problem is not None:
        return warn("plugin file", f"{path} {problem}", f"the package qemu-node has it: {PAGE}")
    return ok("plugin file", path)


def check_gc(gc_max_allocs: int, room: int) -> Check:
    """Judge whether the agent keeps the logs of VMs that have ended."""
    if gc_max_allocs >= room:
        return ok("alloc GC", f"gc_max_allocs = {gc_max_allocs}")
    return warn(
        "alloc GC",
        f"gc_max_allocs = {gc_max_allocs}, and {room} VMs of 1 GiB fit here: with more "
        "allocations than that Nomad removes each that has ended at once, with its logs",
        f"gc_max_allocs = {max(1000, 2 * room)} in the agent's client block",
    )


def check_driver(state: DriverInfo) -> Check:
    """Judge the driver as the running agent sees it."""
    if not state.detected:
        return fail(
            "driver",
            "the running agent has not loaded it",
            "restart the agent: systemctl restart nomad; its log says why a plugin does not start",
        )
    if not state.healthy:
        advice = "docs/troubleshooting.md, The node is not healthy; the agent's log has more"
        return fail("driver", state.health_description, advice)
    return ok("driver", state.health_description)


def check_kill_mode(mode: str) -> Check:
    """Judge what a stop of Nomad's service does to VMs."""
    if mode in ("process", "none"):
        return ok("KillMode", f"{mode}: VMs go on when Nomad is stopped")
    return warn(
        "KillMode",
        f"{mode}: a stop of nomad.service may kill VMs",
        "systemctl edit nomad: [Service], KillMode=process",
    )
