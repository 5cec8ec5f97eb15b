import json
from pathlib import Path

import pytest
from fakes.command_line import Node

from qemu_node.cli.vm.stopall import summary, to_json
from qemu_node.config.node import Paths
from qemu_node.errors import ConfigError
from qemu_node.host.process.identity import ProcessId
from qemu_node.inventory import stopall
from qemu_node.inventory.stopall import Ended, LiveVM, Tell
from qemu_node.vm.life.stopladder import StopAction
from qemu_node.vm.record.directory import VMDirectory


def ended(action: StopAction | None, problem: str | None = None) -> Ended:
    vm = LiveVM(
        directory=VMDirectory(data=Path("/d/vm/web-000000000000"), run=Path("/r")),
        process=ProcessId(pid=1, start_time=1),
        name="web",
        monitor=None,
        agent=None,
        is_managed=False,
    )
    return Ended(vm=vm, action=action, problem=problem)


def test_the_summary_counts_how_vms_ended() -> None:
    ends = [
        ended(StopAction.GUEST_AGENT),
        ended(StopAction.GUEST_AGENT),
        ended(StopAction.ACPI),
        ended(StopAction.KILL),
        ended(None),
        ended(StopAction.KILL, "it hangs"),
    ]
    assert summary(ends) == (
        "5 of 6 VMs ended: 2 by their guest agents, 1 by the power button, 1 by force, "
        "1 had ended already"
    )
    assert summary([]) == "no VM runs on this machine"


def test_json_says_how_each_ended_and_what_is_left() -> None:
    assert to_json([ended(StopAction.KILL, "it hangs")]) == [
        {"vm_id": "web-000000000000", "name": "web", "by": "kill", "problem": "it hangs"}
    ]


@pytest.mark.parametrize("arguments", [[], ["--all", "web"]])
def test_it_takes_a_vm_or_all(node: Node, arguments: list[str]) -> None:
    assert node.vm("stop", *arguments) == 2


def test_without_vms_there_is_nothing_to_do(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert node.vm("stop", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_vm_that_is_left_is_an_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave_one(_paths: Paths, _timeout_s: float, _tell: Tell) -> list[Ended]:
        return [ended(StopAction.KILL, "it hangs")]

    monkeypatch.setattr(stopall, "stop_all", leave_one)
    assert node.vm("stop", "--all") == 1


def test_a_wrong_node_toml_keeps_no_shutdown_from_ending_vms(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked_in: list[Paths] = []

    async def note(paths: Paths, timeout_s: float, _tell: Tell) -> list[Ended]:
        looked_in.append(paths)
        assert timeout_s == 7.0
        return []

    def refuse(_self: object) -> None:
        raise ConfigError("node.toml: there is no setting foo")

    monkeypatch.setattr(stopall, "stop_all", note)
    monkeypatch.setattr("qemu_node.cli.main.App.load_config", refuse)
    assert node.vm("stop", "--all", "--timeout", "7") == 0
    assert looked_in[0].run
    assert "there is no setting foo" in capsys.readouterr().err
