from dataclasses import replace

import pytest

from qemu_node.cli.doctor.agentchecks import (
    AgentFacts,
    Program,
    check_nomad,
    judge_agent,
)
from qemu_node.cli.doctor.checks import Check, Level
from qemu_node.errors import MissingPartError
from qemu_node.nodeos.agent.client import DriverInfo
from qemu_node.nodeos.agent.config import AgentConfig

CONFIG = AgentConfig(plugin_dir="/opt/nomad/plugins", plugins=("vm",), gc_max_allocs=1000)
DRIVER = DriverInfo(detected=True, healthy=True, health_description="Healthy: QEMU 10.0.0, kvm")
GOOD = AgentFacts(
    program=Program(path="/usr/bin/nomad", version=(1, 11, 3)),
    address="http://127.0.0.1:4646",
    config=CONFIG,
    driver=DRIVER,
    kill_mode="process",
    room=500,
)


def bad(facts: AgentFacts) -> dict[str, Check]:
    return {check.name: check for check in judge_agent(facts) if check.level is not Level.OK}


def test_a_node_as_the_page_makes_it_is_found_in_order() -> None:
    assert bad(GOOD) == {}
    names = [check.name for check in judge_agent(GOOD)]
    assert names == [
        "Nomad", "agent", "plugin conf", "plugin file", "alloc GC", "driver", "KillMode",
    ]  # fmt: skip


@pytest.mark.parametrize("program", [None, MissingPartError("nomad does not tell its version")])
def test_without_nomad_nothing_of_it_is_asked_for(program: MissingPartError | None) -> None:
    assert [check.name for check in judge_agent(replace(GOOD, program=program))] == ["Nomad"]


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (None, Level.OK),
        (Program(path="/usr/bin/nomad", version=(1, 11, 3)), Level.OK),
        (Program(path="/usr/bin/nomad", version=(1, 9, 9)), Level.WARN),
        (MissingPartError("it is broken"), Level.WARN),
    ],
)
def test_an_old_or_broken_nomad_is_named(
    found: Program | MissingPartError | None, level: Level
) -> None:
    assert check_nomad(found).level is level


@pytest.mark.parametrize(
    ("name", "level", "facts", "said"),
    [
        (
            "agent",
            Level.WARN,
            replace(GOOD, problem="connection refused", driver=None),
            "start nom",
        ),
        ("agent", Level.WARN, replace(GOOD, problem="Permission denied"), "NOMAD_TOKEN"),
        ("agent", Level.WARN, replace(GOOD, host_name="other"), "NOMAD_ADDR"),
        ("plugin conf", Level.WARN, replace(GOOD, config=AgentConfig()), 'plugin "vm" {}'),
        (
            "plugin file",
            Level.WARN,
            replace(GOOD, plugin_problem="does not exist"),
            "plain-debian.md",
        ),
        (
            "plugin file",
            Level.WARN,
            replace(GOOD, config=replace(CONFIG, plugin_dir="")),
            "plain-debian.md",
        ),
        (
            "alloc GC",
            Level.WARN,
            replace(GOOD, config=replace(CONFIG, gc_max_allocs=50)),
            "gc_max_allocs = 1000 in",
        ),
        (
            "driver",
            Level.FAIL,
            replace(GOOD, driver=DriverInfo()),
            "restart nomad",
        ),
        (
            "driver",
            Level.FAIL,
            replace(GOOD, driver=DriverInfo(detected=True, health_description="no QEMU")),
            "troubleshooting.md",
        ),
        ("KillMode", Level.WARN, replace(GOOD, kill_mode="control-group"), "KillMode=process"),
    ],
)
def test_each_lack_is_one_check_with_what_to_do(
    name: str, level: Level, facts: AgentFacts, said: str
) -> None:
    found = bad(facts)
    assert list(found) == [name]
    assert found[name].level is level
    assert said in (found[name].advice or "")


def test_a_small_node_does_with_nomads_default() -> None:
    assert bad(replace(GOOD, config=replace(CONFIG, gc_max_allocs=50), room=16)) == {}


def test_an_agent_whose_configuration_is_not_known_is_only_reported_as_silent() -> None:
    facts = AgentFacts(program=GOOD.program, address=GOOD.address, problem="Permission denied")
    assert [check.name for check in judge_agent(facts)] == ["Nomad", "agent"]
