import io
import json
import os
import sys
from pathlib import Path

import pytest
from fakes.command_line import Node
from fakes.fake_qga import FakeProgram, FakeQga

from qemu_node.cli.vm.exec import (
    EXIT_CANNOT_START,
    EXIT_NOT_FOUND,
    EXIT_NOT_RUN,
    EXIT_TIMED_OUT,
)
from qemu_node.qga import agent as qga_agent

Output = pytest.CaptureFixture[str]


def give_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


async def test_exec_passes_output_and_exit_code_on(node: Node, capsys: Output) -> None:
    record = node.publish()
    program = FakeProgram(exit_code=7, stdout=b"out\n", stderr=b"err\n")
    async with FakeQga(Path(record.sockets.qga), programs={"uptime": program}) as guest:
        assert await node.vm_beside_peers("exec", "web", "--", "uptime", "-p", "--json") == 7
    shown = capsys.readouterr()
    assert shown.err == "err\n"
    assert shown.out == "out\n"
    (request,) = [item for item in guest.received if item["execute"] == "guest-exec"]
    assert request["arguments"]["arg"] == ["-p", "--json"]
    assert "input-data" not in request["arguments"]


async def test_exec_gives_the_command_what_is_piped_in(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = node.publish()
    give_input(monkeypatch, b"hello\n")
    async with FakeQga(Path(record.sockets.qga), programs={"tee": FakeProgram()}) as guest:
        assert await node.vm_beside_peers("exec", "web", "tee") == 0
        assert await node.vm_beside_peers("exec", "-n", "web", "tee") == 0
    inputs = [
        item["arguments"].get("input-data")
        for item in guest.received
        if item["execute"] == "guest-exec"
    ]
    assert inputs == ["aGVsbG8K", None]


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (FakeProgram(exit_code=0), 0),
        (FakeProgram(exit_code=None, signal=9), 137),
        (FakeProgram(exit_code=0xC0000005), 255),
        (FakeProgram(exit_code=256), 255),
    ],
)
async def test_an_exit_code_that_a_shell_cannot_show_is_no_success(
    node: Node, program: FakeProgram, code: int
) -> None:
    record = node.publish()
    async with FakeQga(Path(record.sockets.qga), programs={"x": program}):
        assert await node.vm_beside_peers("exec", "web", "x") == code


async def test_exec_as_json_is_one_object(node: Node, capsys: Output) -> None:
    record = node.publish()
    program = FakeProgram(exit_code=3, stdout=b"out")
    async with FakeQga(Path(record.sockets.qga), programs={"x": program}):
        assert await node.vm_beside_peers("exec", "--json", "web", "x") == 3
    assert json.loads(capsys.readouterr().out) == {
        "exit_code": 3, "signal": None, "stdout": "out", "stderr": "", "truncated": False,
    }  # fmt: skip


def test_exec_is_refused_where_the_job_does_not_allow_it(node: Node, capsys: Output) -> None:
    node.publish(allow_exec=False)
    assert node.vm("exec", "web", "--", "id") == EXIT_NOT_RUN
    error, hint = capsys.readouterr().err.splitlines()
    assert "does not allow" in error
    assert "allow_exec = true" in hint


# What follows is never the command's own exit status.


@pytest.mark.parametrize(
    "arguments", [["web"], ["web", "--"], ["--nope", "web", "id"], ["--timeout", "x", "web", "id"]]
)
def test_wrong_usage_is_told_from_a_command_that_failed(
    node: Node, capsys: Output, arguments: list[str]
) -> None:
    assert node.vm("exec", *arguments) == EXIT_NOT_RUN
    assert capsys.readouterr().err.startswith("error: ")


def test_a_vm_that_has_ended_or_is_not_there_runs_nothing(node: Node, capsys: Output) -> None:
    node.publish(start_time=1)
    assert node.vm("exec", "web", "id") == EXIT_NOT_RUN
    assert "does not run any more" in capsys.readouterr().err
    assert node.vm("exec", "wbe", "id") == EXIT_NOT_RUN
    assert "did you mean web?" in capsys.readouterr().err


async def test_without_an_agent_nothing_is_run_and_the_log_is_named(
    node: Node, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qga_agent, "_TIMEOUT_S", 0.2)
    record = node.publish()
    async with FakeQga(Path(record.sockets.qga), sync="silent"):
        assert await node.vm_beside_peers("exec", "web", "id") == EXIT_NOT_RUN
    error, hint = capsys.readouterr().err.splitlines()
    assert "does not answer" in error
    assert f"`qemu-node vm logs {record.vm_id}`" in hint


def test_an_agent_of_root_s_is_refused_with_what_to_type(
    node: Node, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = node.publish()
    closed = {Path(record.qga_lock), Path(record.qga_lock).parent}
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) not in closed)
    assert node.vm("exec", "web", "id") == EXIT_NOT_RUN
    assert "run this as root (`sudo " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("Failed to execute child process ?x? (No such file or directory)", EXIT_NOT_FOUND),
        ("Failed to execute child process ?x? (Permission denied)", EXIT_CANNOT_START),
    ],
)
async def test_a_command_that_the_guest_cannot_start_is_told_as_shells_do(
    node: Node, capsys: Output, reason: str, status: int
) -> None:
    record = node.publish()
    async with FakeQga(Path(record.sockets.qga), errors={"guest-exec": reason}):
        assert await node.vm_beside_peers("exec", "web", "x") == status
    assert reason in capsys.readouterr().err


async def test_a_command_that_outlasts_its_time_is_no_failure_of_its_own(
    node: Node, capsys: Output
) -> None:
    record = node.publish()
    programs = {"x": FakeProgram(polls=-1)}
    async with FakeQga(Path(record.sockets.qga), programs=programs):
        assert await node.vm_beside_peers("exec", "--timeout", "1s", "web", "x") == EXIT_TIMED_OUT
    assert "did not end within 1 s" in capsys.readouterr().err


async def test_a_command_that_is_lost_track_of_has_no_status(node: Node, capsys: Output) -> None:
    record = node.publish()
    lost = {"guest-exec-status": "gone"}
    programs = {"x": FakeProgram()}
    async with FakeQga(Path(record.sockets.qga), programs=programs, errors=lost):
        assert await node.vm_beside_peers("exec", "web", "x") == EXIT_NOT_RUN
    assert "lost track" in capsys.readouterr().err
