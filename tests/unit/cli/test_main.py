import os
import re
from pathlib import Path

import click
import pytest

from qemu_node.cli import main as cli_main
from qemu_node.cli.main import main
from qemu_node.cli.run import exit_code
from qemu_node.errors import JobError
from qemu_node.run.session import SessionResult


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


def test_run_names_a_mistake_in_the_job_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QEMU_NODE_CONFIG", raising=False)
    job = tmp_path / "x.nomad.hcl"
    job.write_text('job "x" {\n  nope = 1\n}\n')
    assert main(["run", "--parser", "hcl2", str(job)]) == 1
    assert f"error: {job}:2: there is no argument 'nope' here" in capsys.readouterr().err


def test_run_names_a_wrong_node_toml(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = tmp_path / "x.nomad.hcl"
    job.write_text("")
    assert main(["--config", str(tmp_path / "none.toml"), "run", str(job)]) == 1
    assert "none.toml: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failed", "was_forced", "code"),
    [((), False, 0), (("g[0]",), False, 1), ((), True, 130), (("g[0]",), True, 1)],
)
def test_a_failed_vm_decides_the_exit_code(
    failed: tuple[str, ...], was_forced: bool, code: int
) -> None:
    assert exit_code(SessionResult(failed=failed, was_forced=was_forced)) == code
