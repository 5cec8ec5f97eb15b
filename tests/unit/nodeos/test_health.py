from dataclasses import replace
from pathlib import Path

import pytest

from qemu_node.nodeos import health
from qemu_node.nodeos.agent.client import DriverInfo
from qemu_node.nodeos.health import HealthFacts, find_faults, read_health
from qemu_node.nodeos.paths import NodePaths

_WELL = HealthFacts(
    has_address=True,
    has_data=True,
    is_data_mounted=True,
    has_config=True,
    nomad_state="active",
    driver=DriverInfo(healthy=True),
)


def test_a_node_on_which_everything_runs_is_well() -> None:
    assert find_faults(_WELL) == []


def test_a_node_without_data_or_configuration_is_well() -> None:
    """Otherwise the first boot after the installation would be its last."""
    bare = HealthFacts(has_address=True, has_data=False, is_data_mounted=False, has_config=False)
    assert find_faults(bare) == []


def test_a_server_without_a_client_needs_no_driver() -> None:
    assert find_faults(replace(_WELL, driver=None)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"has_address": False}, "no network"),
        ({"is_data_mounted": False}, "/data is not mounted"),
        ({"nomad_state": "failed"}, "nomad.service is failed"),
        ({"nomad_state": "activating"}, "nomad.service is activating"),
        ({"nomad_state": None}, "nomad.service is not there"),
        ({"agent_problem": "no leader"}, "no leader"),
        ({"driver": DriverInfo(health_description="no QEMU")}, "no QEMU"),
    ],
)
def test_each_fault_is_named(change: dict[str, object], words: str) -> None:
    [fault] = find_faults(replace(_WELL, **change))  # type: ignore[arg-type]
    assert words in fault


def test_only_the_first_of_faults_that_follow_from_each_other_is_told() -> None:
    facts = replace(_WELL, nomad_state="failed", agent_problem="refused", driver=None)
    assert len(find_faults(facts)) == 1


@pytest.mark.parametrize("state", ["activating", "failed", None])
async def test_an_agent_that_does_not_run_is_not_asked(
    state: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def has_address() -> bool:
        return True

    async def unit_state(_unit: str) -> str | None:
        return state

    async def ask(_paths: NodePaths) -> tuple[None, None]:
        raise AssertionError("was asked")

    monkeypatch.setattr(health, "_has_address", has_address)
    monkeypatch.setattr(health, "_unit_state", unit_state)
    monkeypatch.setattr(health, "_ask_agent", ask)
    paths = NodePaths(tmp_path)
    paths.config.mkdir(parents=True)
    (paths.config / "node.hcl").touch()
    facts = await read_health(paths)
    assert (facts.has_config, facts.nomad_state) == (True, state)
    [fault] = find_faults(replace(facts, is_data_mounted=True))
    assert "nomad.service is" in fault
