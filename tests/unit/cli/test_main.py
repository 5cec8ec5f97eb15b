import os
import re

import click
import pytest

from qemu_node.cli import main as cli_main
from qemu_node.cli.main import main
from qemu_node.errors import JobError


def fail_with(monkeypatch: pytest.MonkeyPatch, exc: BaseException) -> None:
    @click.command()
    def failing() -> None:
        raise exc

    monkeypatch.setattr(cli_main, "completion", failing)


def test_help_lists_every_command_without_loading_any(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr("importlib.import_module", refuse)
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("run", "vm", "image", "doctor", "driver", "completion"):
        assert f"  {name} " in shown
    assert "Examples:" in shown


@pytest.mark.parametrize("group", [[], ["vm"], ["image"]])
def test_no_line_of_a_list_of_commands_is_cut_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, group: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*group, "--help"]) == 0
    _, _, commands = capsys.readouterr().out.partition("Commands:\n")
    lines = commands.partition("\n\n")[0].splitlines()
    assert len(lines) > 5
    for line in lines:
        # One line for each command, with a whole sentence.
        assert re.fullmatch(r"  \w+ +[A-Z].*\.", line), line
        assert "..." not in line


def test_an_operators_mistake_is_one_line_and_a_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, JobError("no such\nimage", hint="list it"))
    assert main(["completion"]) == 1
    assert capsys.readouterr().err == "error: no such image\n hint: list it\n"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert main(["completion"]) == 130


def test_a_reader_that_is_gone_is_no_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    dups: list[int] = []
    monkeypatch.setattr(os, "dup2", lambda _, fd: dups.append(fd))
    for gone in (
        BrokenPipeError(),
        ExceptionGroup("", [ExceptionGroup("", [BrokenPipeError()]), BrokenPipeError()]),
    ):
        fail_with(monkeypatch, gone)
        assert main(["completion"]) == 1
    assert len(dups) == 2


def test_another_error_beside_a_reader_that_is_gone_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_with(monkeypatch, ExceptionGroup("", [BrokenPipeError(), ValueError()]))
    with pytest.raises(ExceptionGroup):
        main(["completion"])


@pytest.mark.parametrize("arguments", [["nope"], ["run"], ["--nope"], ["completion", "tcsh"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["completion"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(
    capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    assert main(["completion", shell]) == 0
    assert "_QEMU_NODE_COMPLETE" in capsys.readouterr().out
