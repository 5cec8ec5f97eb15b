"""How an error looks, and the exit statuses: the same in every command.

Owns the two lines on stderr: what is wrong with which value, and what to type next. Does not own
the words of an error, which are those of whoever raises it.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from qemu_node.errors import AS_ROOT, NodeError
from qemu_node.text import clean, nearest

PROGRAM = "qemu-node"

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_SUDO_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where sudo looks for a program (`secure_path` of Debian's sudoers)."""


def show_error(exc: NodeError, arguments: Sequence[str] = ()) -> None:
    """Write `exc`; if it needs root, with the command line `arguments` to type again."""
    _write(str(exc), exc.hint and with_sudo(exc.hint, arguments))


def show_finding(text: str, hint: str, *, is_error: bool) -> None:
    """Write something that is wrong, or that is to be looked at."""
    _write(text, hint, label="error:" if is_error else "warning:")


def with_sudo(hint: str, arguments: Sequence[str]) -> str:
    """Return `hint`, in which `AS_ROOT` is followed by the whole command line to type."""
    if not arguments:
        return hint
    again = shlex.join(["sudo", _typed_program(), *arguments])
    return hint.replace(AS_ROOT, f"{AS_ROOT} (`{again}`)")


def show_usage_error(exc: click.ClickException) -> None:
    """Write what is wrong with a command line, and its usage."""
    _write(*explain_usage(exc))


def explain_usage(exc: click.ClickException) -> tuple[str, str | None]:
    """Return what is wrong with a command line, and what to type instead: pure."""
    ctx = exc.ctx if isinstance(exc, click.UsageError) else None
    if ctx is None:
        return _sentence(exc.format_message()), None
    path = ctx.command_path
    help_ = f"`{path} --help` explains it"
    match exc:
        case click.NoSuchCommand(command_name=name):
            commands = _commands(ctx)
            below = (command for command in commands if command.endswith(f" {name}"))
            near = nearest(name, commands) or next(below, None)
            meant = f"did you mean `{path} {near}`? " if near else ""
            return f"{path} has no command {name!r}", f"{meant}`{path} --help` lists them"
        case click.NoSuchOption(option_name=name):
            what = f"{path} has no option {name!r}"
            root = ctx.find_root()
            if ctx is not root and name in _options(root):
                rest = path.removeprefix(f"{root.command_path} ")
                return what, f"it comes before the command: `{root.command_path} {name} … {rest} …`"
            if ctx is root and name == "--json":
                return what, f"it comes after the command: `{path} vm list --json`"
            near = nearest(name, _options(ctx))
            return what, f"did you mean {near}? {help_}" if near else help_
        case click.MissingParameter(param=click.Parameter() as param):
            what = f"{param.get_error_hint(ctx).strip(chr(39))} is missing"
        case _:
            what = _sentence(exc.format_message())
    usage = " ".join([path, *ctx.command.collect_usage_pieces(ctx)])
    return what, f"usage: {usage}; {help_}"


def _commands(ctx: click.Context) -> list[str]:
    """Return the commands of a group, and `group command` for those of groups in it."""
    group = ctx.command
    if not isinstance(group, click.Group):
        return []
    names = group.list_commands(ctx)
    inner = [(name, group.get_command(ctx, name)) for name in names]
    return names + [
        f"{name} {below}"
        for name, command in inner
        if isinstance(command, click.Group)
        for below in command.list_commands(ctx)
    ]


def _options(ctx: click.Context) -> list[str]:
    return [name for param in ctx.command.get_params(ctx) for name in param.opts if name[0] == "-"]


def _sentence(text: str) -> str:
    """Return click's sentence in our form: a small first letter, no full stop."""
    return text[:1].lower() + text[1:].removesuffix(".")


def _typed_program() -> str:
    """Return the name by which sudo finds this program."""
    program = Path(sys.argv[0])
    in_path = program.name == PROGRAM and str(program.parent) in _SUDO_PATH
    return PROGRAM if in_path or not program.is_absolute() else str(program)


def _write(message: str, hint: str | None, label: str = "error:") -> None:
    one_line = clean(" ".join(message.split()))
    colour = "red" if label == "error:" else "yellow"
    lines = [f"{click.style(label, fg=colour, bold=True)} {one_line}"]
    if hint:
        below = "hint:".rjust(len(label))
        lines.append(f"{click.style(below, fg='cyan')} {clean(' '.join(hint.split()))}")
    try:
        click.echo("\n".join(lines), err=True)
    except BrokenPipeError:
        # Nobody reads stderr; the exit status remains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
