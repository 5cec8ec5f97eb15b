import json
import os
from pathlib import Path

import pytest
from fakes.command_line import Node
from fakes.fake_qga import FakeQga
from fakes.fake_qmp import FakeQmp
from fakes.published import VM_ID

from qemu_node.cli.main import main
from qemu_node.cli.vm.commands import vm as vm_group
from qemu_node.inventory import report as vmreport
from qemu_node.units import MIB
from qemu_node.vm.life.usage import DiskState, UsageMeter
from qemu_node.vm.record.directory import VMDirectory

Output = pytest.CaptureFixture[str]


# list


def test_list_shows_a_line_per_vm_and_leftovers(node: Node, capsys: Output) -> None:
    node.publish()
    VMDirectory.of(node.paths, "old-0123456789ff").create_data()
    assert node.vm("list") == 0
    header, published, leftover = capsys.readouterr().out.splitlines()
    assert header.split() == ["VM", "NAME", "STATE", "OS", "CPU", "MEMORY", "UPTIME", "IMAGE"]
    assert published.startswith(f"{VM_ID}  shop/front[0]/web  unmanaged  linux")
    assert "512M" in published
    assert published.endswith("debian-13.qcow2")
    assert leftover.split()[:3] == ["old-0123456789ff", "-", "orphan"]


def test_list_of_an_empty_node_says_what_to_do_and_is_empty_json(
    node: Node, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uid, told in ((0, "`qemu-node run JOB` starts some\n"), (1000, " vm list`)\n")):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        assert node.vm("list") == 0
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.endswith(told)
    assert node.vm("list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_list_as_json_has_numbers_and_identities(node: Node, capsys: Output) -> None:
    record = node.publish()
    node.vm("list", "--json")
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["vm_id"] == VM_ID
    assert listed["pid"] == os.getpid()
    assert listed["memory_bytes"] == 512 * MIB
    assert listed["job_id"] == record.identity.job_id
    assert listed["state"] == "unmanaged"
    assert "addresses" not in listed


async def test_the_wide_list_asks_the_guests_for_their_addresses(
    node: Node, capsys: Output
) -> None:
    record = node.publish()
    async with FakeQga(Path(record.sockets.qga)):
        assert await node.vm_beside_peers("list", "--wide") == 0
        wide = capsys.readouterr().out
        assert await node.vm_beside_peers("list", "--wide", "--json") == 0
    assert "127.0.0.1:20080 → 80" in wide
    assert "10.0.2.15" in wide
    assert "fe80" not in wide
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["guest_name"], listed["addresses"]) == ("guest", ["10.0.2.15"])
    assert " guest " in wide


def test_a_guest_without_an_agent_has_no_address_in_the_wide_list(
    node: Node, capsys: Output
) -> None:
    node.publish()
    assert node.vm("list", "--wide") == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("-")


# show


async def test_show_tells_what_is_written_down_and_what_qemu_and_guest_say(
    node: Node, capsys: Output
) -> None:
    record = node.publish()
    monitor = FakeQmp(Path(record.sockets.monitor))
    async with monitor, FakeQga(Path(record.sockets.qga)):
        assert await node.vm_beside_peers("show", "web") == 0
        shown = capsys.readouterr().out
        assert await node.vm_beside_peers("show", "web", "--json") == 0
    for part in (
        record.identity.alloc_id, record.uuid, "secure-boot", "10.0.0", "Debian GNU/Linux 13",
        "127.0.0.1:20080 → guest port 80", "enp1s0", "10.0.2.15", record.sockets.serial,
    ):  # fmt: skip
        assert part in shown
    report = json.loads(capsys.readouterr().out)
    assert report["qemu"] == {"run_state": "running", "version": "10.0.0", "problem": None}
    assert report["agent"]["interfaces"][1]["addresses"][0] == "10.0.2.15"
    assert report["sockets"]["monitor"] == record.sockets.monitor
    assert report["state"] == "unmanaged"


async def test_show_tells_of_a_guest_that_waits_for_disk_space(node: Node, capsys: Output) -> None:
    record = node.publish()
    waiting = DiskState(is_full=True, pauses=3, paused_at=5.0)
    directory = VMDirectory.of(node.paths, VM_ID)
    UsageMeter(record.process, waiting).publish(directory.usage_json)
    async with FakeQmp(Path(record.sockets.monitor), status="io-error"):
        assert await node.vm_beside_peers("show", "web") == 0
        shown = capsys.readouterr().out
        assert await node.vm_beside_peers("show", "web", "--json") == 0
    assert "io-error" in shown
    assert "paused it 3 times" in shown
    report = json.loads(capsys.readouterr().out)
    assert report["disk"] == {"is_full": True, "pauses": 3, "paused_at": 5.0}


async def test_show_waits_for_nobody_who_does_not_answer(
    node: Node, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmreport, "_TIMEOUT_S", 0.2)
    record = node.publish()
    monitor = FakeQmp(Path(record.sockets.monitor), greeting="absent")
    async with monitor, FakeQga(Path(record.sockets.qga), sync="silent"):
        assert await node.vm_beside_peers("show", VM_ID) == 0
    shown = capsys.readouterr().out
    assert "unknown: QEMU did not greet" in shown
    assert "no answer" in shown
    assert record.image in shown


async def test_an_agent_that_hides_its_system_is_shown_all_the_same(
    node: Node, capsys: Output
) -> None:
    record = node.publish()
    async with FakeQga(Path(record.sockets.qga), disabled=["guest-get-osinfo"]):
        assert await node.vm_beside_peers("show", VM_ID) == 0
    assert "10.0.2, commands allowed" in capsys.readouterr().out


def test_a_vm_that_has_ended_is_shown_without_being_asked(node: Node, capsys: Output) -> None:
    node.publish(start_time=1)
    assert node.vm("show", VM_ID) == 0
    assert "its process is gone" in capsys.readouterr().out


def test_a_name_that_means_no_vm_is_an_error_of_one_line_with_a_hint(
    node: Node, capsys: Output
) -> None:
    node.publish()
    assert node.vm("show", "wbe") == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: no VM 'wbe' on this node",
        " hint: did you mean web? `qemu-node vm list` shows all",
    ]


# console, stop, screenshot


def test_the_console_refuses_without_a_terminal(node: Node, capsys: Output) -> None:
    node.publish()
    assert node.vm("console", "web") == 2
    assert "--no-input" in capsys.readouterr().err


# `exec` has a test of its own, because it exits with another status.
@pytest.mark.parametrize("command", sorted({*vm_group.commands} - {"list", "show", "logs", "exec"}))
def test_a_vm_that_has_ended_cannot_be_used(node: Node, capsys: Output, command: str) -> None:
    node.publish(start_time=1)
    arguments = ["--no-input"] if command == "console" else []
    more = ["x.png"] if command == "screenshot" else []
    assert node.vm(command, *arguments, "web", *more) == 1
    assert "does not run any more" in capsys.readouterr().err


async def test_a_vm_of_another_user_is_refused_with_what_to_do(
    node: Node, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = node.publish()
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).suffix != ".sock")
    async with FakeQmp(Path(record.sockets.monitor)):
        assert await node.vm_beside_peers("stop", "web") == 1
    assert "`sudo usermod -aG qemu-node $USER`" in capsys.readouterr().err


def test_a_wrong_timeout_is_wrong_usage(node: Node, capsys: Output) -> None:
    node.publish()
    assert node.vm("stop", "--timeout", "soon", "web") == 2
    assert "duration" in capsys.readouterr().err


def test_a_picture_does_not_go_to_json_and_stdout_at_once(node: Node, capsys: Output) -> None:
    node.publish()
    assert node.vm("screenshot", "web", "-", "--json") == 2
    assert "name a file" in capsys.readouterr().err


async def test_a_screen_that_cannot_be_had_leaves_no_file(
    node: Node, capsys: Output, tmp_path: Path
) -> None:
    record = node.publish()
    target = tmp_path / "screen.png"
    monitor = FakeQmp(Path(record.sockets.monitor), errors={"screendump": "There is no console"})
    async with monitor:
        assert await node.vm_beside_peers("screenshot", "web", str(target)) == 1
    assert "There is no console" in capsys.readouterr().err
    assert not target.exists()


# the whole


@pytest.mark.parametrize("command", sorted(vm_group.commands))
def test_every_command_has_examples_and_json(command: str, capsys: Output) -> None:
    assert main(["vm", command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"qemu-node vm {command}" in shown
    assert "Examples:" in shown
    assert "--json" in shown or command in ("console", "logs")
