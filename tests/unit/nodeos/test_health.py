from dataclasses import replace

import pytest

from qemu_node.nodeos.agent.client import DriverInfo
from qemu_node.nodeos.health import HealthFacts, find_faults

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
