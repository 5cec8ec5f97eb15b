import sys

import click
import pytest

from qemu_node.cli.errortext import show_error, show_usage_error
from qemu_node.cli.main import main
from qemu_node.errors import AS_ROOT, HostError, MissingPartError

Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (
            ["vm", "lst"],
            "qemu-node vm has no command 'lst'",
            "did you mean `qemu-node vm list`? `qemu-node vm --help` lists them",
        ),
        (
            ["doctr"],
            "qemu-node has no command 'doctr'",
            "did you mean `qemu-node doctor`? `qemu-node --help` lists them",
        ),
        (
            ["list"],
            "qemu-node has no command 'list'",
            "did you mean `qemu-node vm list`? `qemu-node --help` lists them",
        ),
        (["xyzzy"], "qemu-node has no command 'xyzzy'", "`qemu-node --help` lists them"),
        (
            ["vm", "list", "--jsn"],
            "qemu-node vm list has no option '--jsn'",
            "did you mean --json? `qemu-node vm list --help` explains it",
        ),
        (
            ["vm", "list", "--config", "x"],
            "qemu-node vm list has no option '--config'",
            "it comes before the command: `qemu-node --config … vm list …`",
        ),
        (
            ["--json", "vm", "list"],
            "qemu-node has no option '--json'",
            "it comes after the command: `qemu-node vm list --json`",
        ),
        (
            ["completion"],
            "{bash|zsh|fish} is missing",
            "usage: qemu-node completion [OPTIONS] {bash|zsh|fish}; "
            "`qemu-node completion --help` explains it",
        ),
        (
            ["vm", "stop", "--timeout", "soon", "web"],
            "invalid value for '--timeout': 'soon' is not a duration (write it as \"30s\", "
            '"5m" or "1h30m")',
            None,
        ),
        (["vm", "list", "web"], "got unexpected extra argument (web)", None),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_what_to_type(
    capsys: Output, arguments: list[str], error: str, hint: str | None
) -> None:
    assert main(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"error: {error}"
    assert second.startswith(" hint: usage: " if hint is None else f" hint: {hint}")


def test_an_error_without_a_command_is_one_line(capsys: Output) -> None:
    show_usage_error(click.ClickException("No such thing."))
    assert capsys.readouterr().err == "error: no such thing\n"


@pytest.mark.parametrize(
    ("program", "typed"),
    [
        ("/usr/local/bin/qemu-node", "qemu-node"),
        ("/home/me/node/.venv/bin/qemu-node", "/home/me/node/.venv/bin/qemu-node"),
        ("qemu-node", "qemu-node"),
    ],
)
def test_what_takes_root_is_shown_with_the_command_to_type(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, program: str, typed: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    error = MissingPartError("it is root's", hint=f"{AS_ROOT}, or ask")
    show_error(error, ["vm", "show", "a b"])
    hint = capsys.readouterr().err.splitlines()[1]
    assert hint == f" hint: {AS_ROOT} (`sudo {typed} vm show 'a b'`), or ask"


def test_an_error_that_quotes_others_cannot_steer_the_terminal(capsys: Output) -> None:
    show_error(HostError("VM \x1b[2J of \x9b31mweb", hint="see \x1b]0;title\x07"))
    words = capsys.readouterr().err
    assert "\x1b[2J" not in words
    assert "\x9b" not in words
    assert "\x1b]" not in words
