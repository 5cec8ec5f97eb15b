import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from qemu_node.cli.doctor import agentfacts
from qemu_node.cli.doctor.agentchecks import Program
from qemu_node.errors import MissingPartError
from qemu_node.host.process.command import Completed, ProcessError
from qemu_node.nodeos.agent.client import DriverInfo
from qemu_node.nodeos.agent.config import (
    DEFAULT_GC_MAX_ALLOCS,
    AgentConfig,
    agent_config,
    parse,
)
from qemu_node.nodeos.paths import NodePaths

NODE_ID = "787ef573-999d-b53d-591d-72e35741ec5a"


def completed(stdout: str = "", *, stderr: str = "", returncode: int = 0) -> Completed:
    return Completed(returncode=returncode, stdout=stdout.encode(), stderr=stderr.encode())


@pytest.fixture
def nomad(tmp_path: Path) -> Path:
    path = tmp_path / "nomad"
    path.touch(mode=0o755)
    return path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Completed]:
    """What each program says, by its last argument; the others cannot be started."""
    said = {"version": completed("Nomad v2.0.6-dev\nBuildDate 2026-01-01\n")}

    async def run(
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Completed:
        assert timeout_s <= 20
        if argv[-1] not in said:
            raise ProcessError(argv, "exited with status 1")
        return said[argv[-1]]

    monkeypatch.setattr(agentfacts, "run", run)
    monkeypatch.setattr(agentfacts, "_DEBIAN_CONFIG_DIR", Path("/nonexistent"))
    return said


def agent_says(answers: dict[str, Completed], plugin_dir: Path, host_name: str) -> None:
    config = {
        "PluginDir": str(plugin_dir),
        "Plugins": [{"Name": "raw_exec"}, {"Name": "vm", "Config": {}}],
        "Client": {"GCMaxAllocs": 1000, "Enabled": True},
    }
    stats = {"client": {"node_id": NODE_ID}}
    answers["/v1/agent/self"] = completed(json.dumps({"config": config, "stats": stats}))
    driver = {"Detected": True, "Healthy": False, "HealthDescription": "no QEMU"}
    node = {"Attributes": {"unique.hostname": host_name}, "Drivers": {"vm": driver}}
    answers[f"/v1/node/{NODE_ID}"] = completed(json.dumps(node))


async def test_a_running_agent_tells_its_configuration_and_the_drivers_health(
    nomad: Path, answers: dict[str, Completed], tmp_path: Path
) -> None:
    agent_says(answers, tmp_path / "plugins", os.uname().nodename)
    facts = await agentfacts.read_agent(str(nomad), {})
    assert facts.program == Program(path=str(nomad), version=(2, 0, 6))
    assert (facts.problem, facts.host_name) == (None, "")
    assert facts.config == AgentConfig(
        plugin_dir=f"{tmp_path}/plugins", plugins=("raw_exec", "vm"), gc_max_allocs=1000
    )
    assert facts.driver == DriverInfo(detected=True, healthy=False, health_description="no QEMU")
    assert facts.plugin_problem == "does not exist"


async def test_an_agent_of_another_machine_is_named(
    nomad: Path, answers: dict[str, Completed], tmp_path: Path
) -> None:
    agent_says(answers, tmp_path, "elsewhere")
    facts = await agentfacts.read_agent(str(nomad), {"NOMAD_ADDR": "http://10.0.0.1:4646"})
    assert (facts.address, facts.host_name) == ("http://10.0.0.1:4646", "elsewhere")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            completed(stderr="Error performing request: connection refused\n", returncode=1),
            "connection refused",
        ),
        (completed("Permission denied"), "Permission denied"),
        (completed("[1]"), "[1]"),
        (completed(""), "an answer that is not JSON"),
    ],
)
async def test_an_agent_that_does_not_answer_says_why_and_its_files_are_read(
    nomad: Path, answers: dict[str, Completed], tmp_path: Path, answer: Completed, reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    answers["/v1/agent/self"] = answer
    (tmp_path / "vm.hcl").write_text('data_dir = "/opt/nomad"\nplugin "vm" {}\n')
    monkeypatch.setattr(agentfacts, "_DEBIAN_CONFIG_DIR", tmp_path)
    facts = await agentfacts.read_agent(str(nomad), {})
    assert facts.problem == reason
    assert needed(facts.config) == ("/opt/nomad/plugins", True, DEFAULT_GC_MAX_ALLOCS)
    assert facts.driver is None


def test_the_nodes_own_system_has_its_configuration_in_data(tmp_path: Path) -> None:
    paths = NodePaths(tmp_path)
    assert agentfacts.config_dir(paths) == Path("/etc/nomad.d")
    paths.os_release.parent.mkdir()
    paths.os_release.write_text("IMAGE_TAG=v1\n")
    assert agentfacts.config_dir(paths) == tmp_path / "data/config"


async def test_nomad_is_optional_and_may_be_broken(
    nomad: Path, answers: dict[str, Completed]
) -> None:
    assert await agentfacts.find_nomad("/nonexistent/nomad") is None
    answers["version"] = completed("this is something else")
    assert isinstance(await agentfacts.find_nomad(str(nomad)), MissingPartError)


def needed(config: AgentConfig | None) -> tuple[str, bool, int]:
    """Return what the driver needs of a configuration."""
    assert config is not None
    return config.plugins_dir, "vm" in config.plugins, config.gc_max_allocs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", False, DEFAULT_GC_MAX_ALLOCS)),
        ('# plugin "vm" {}\n// plugin "vm" {}', ("", False, DEFAULT_GC_MAX_ALLOCS)),
        ('plugin "raw_exec" {}', ("", False, DEFAULT_GC_MAX_ALLOCS)),
        ('plugin "vm" {\n}\nplugin_dir = "/p"', ("/p", True, DEFAULT_GC_MAX_ALLOCS)),
        ("plugin vm {}", ("", True, DEFAULT_GC_MAX_ALLOCS)),
        ('data_dir = "/d"\nclient {\n  gc_max_allocs = 700\n}', ("/d/plugins", False, 700)),
    ],
)  # fmt: skip
def test_files_of_an_agent_are_read_as_far_as_the_driver_needs(
    text: str, expected: tuple[str, bool, int]
) -> None:
    settings = parse(text, Path("vm.hcl"))
    assert needed(agent_config(settings)) == expected


def test_files_in_json_count_and_a_later_file_wins(tmp_path: Path) -> None:
    assert agentfacts.read_config_files(tmp_path) is None
    (tmp_path / "a.hcl").write_text('plugin_dir = "/a"\nclient { gc_max_allocs = 60 }\n')
    (tmp_path / "b.json").write_text('{"plugin_dir": "/b", "plugin": {"vm": {}}}')
    assert needed(agentfacts.read_config_files(tmp_path)) == ("/b", True, 60)
    (tmp_path / "c.hcl").write_text("not { HCL\n")
    assert agentfacts.read_config_files(tmp_path) is None


@pytest.mark.parametrize(
    ("mode", "said", "expected"),
    [
        (0o644, None, "is not executable"),
        (0o755, None, "does not start: vm exited with status 1"),
        (0o755, completed(stderr="error: this is a plugin of Nomad and is not run by hand"), None),
        (0o755, completed(stderr="vm: 3: exec: /opt/qemu-node: not found", returncode=127),
         "does not start: vm: 3: exec: /opt/qemu-node: not found"),
        (0o755, completed(returncode=3), "does not start: exit status 3"),
    ],
)  # fmt: skip
async def test_a_plugin_file_is_started_as_the_agent_would(
    tmp_path: Path, answers: dict[str, Completed], mode: int, said: Completed | None,
    expected: str | None,
) -> None:  # fmt: skip
    path = tmp_path / "vm"
    assert await agentfacts.find_plugin_problem(path) == "does not exist"
    path.touch()
    path.chmod(mode)
    if said is not None:
        answers[str(path)] = said
    assert await agentfacts.find_plugin_problem(path) == expected


@pytest.mark.parametrize("is_file", [False, True])
async def test_a_plugin_file_that_others_can_replace_is_not_started(
    tmp_path: Path, answers: dict[str, Completed], is_file: bool
) -> None:
    # Anybody may listen at the agent's address, and name a file of his own.
    directory = tmp_path / "plugins"
    directory.mkdir()
    path = directory / "vm"
    path.touch()
    path.chmod(0o757 if is_file else 0o755)
    directory.chmod(0o755 if is_file else 0o757)
    link = tmp_path / "link"
    link.symlink_to(directory)
    answers[str(path)] = completed(stderr="error: this is a plugin of Nomad and is not run by hand")
    writable = path if is_file else directory
    problem = f"is not started to try it: others may write to {writable}"
    assert await agentfacts.find_plugin_problem(link / "vm") == problem
    writable.chmod(0o755)
    assert await agentfacts.find_plugin_problem(link / "vm") is None


async def test_a_plugin_file_of_another_user_is_not_started(
    tmp_path: Path, answers: dict[str, Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vm"
    path.touch(mode=0o755)
    answers[str(path)] = completed(stderr="error: this is a plugin of Nomad and is not run by hand")
    if os.geteuid() == 0:
        os.chown(path, 4711, -1)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    problem = await agentfacts.find_plugin_problem(path)
    assert problem is not None
    assert problem.endswith(f"belongs to user {owner}")


async def test_an_address_with_a_password_is_shown_without_it(
    nomad: Path, answers: dict[str, Completed]
) -> None:
    address = "http://user:secret@[bad"
    answers["/v1/agent/self"] = completed(stderr=f"invalid address {address}", returncode=1)
    facts = await agentfacts.read_agent(str(nomad), {"NOMAD_ADDR": address})
    assert (facts.address, facts.problem) == ("http://[bad", "invalid address http://[bad")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LoadState=loaded\nKillMode=process\n", "process"),
        ("LoadState=not-found\nKillMode=control-group\n", None),
        ("", None),
    ],
)
async def test_the_kill_mode_is_that_of_a_unit_that_exists(
    answers: dict[str, Completed], text: str, expected: str | None
) -> None:
    assert await agentfacts.read_kill_mode() is None
    answers["--property=KillMode"] = completed(text)
    assert await agentfacts.read_kill_mode() == expected
