"""Write the manual pages of `qemu-node` from its commands' help.

    manpages.py DIRECTORY

Owns turning a command into a page of man(7). Does not own the text, which is the help's. A hidden
command has no page; one that is hidden where it is of no use has one, which says where that is.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from qemu_node.cli.errortext import PROGRAM
from qemu_node.cli.lazy import LazyGroup
from qemu_node.cli.main import cli
from qemu_node.version import VERSION

_EXIT_STATUS = (
    ("0", "done"),
    ("1", "it could not be done; the error says why"),
    ("2", "wrong usage"),
    ("130", "ended with Ctrl-C"),
)  # docs/cli.md
_FILES = (("/etc/qemu-node/node.toml", "the node's settings"),)
_ENVIRONMENT = (("QEMU_NODE_CONFIG", "the path of node.toml, unless --config names one"),)
# man(7) prints these as typographic characters, with which no example could be copied.
_PLAIN = str.maketrans({
    "\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti",
})  # fmt: skip
_EXAMPLES = "Examples:"


def contexts(
    command: click.Command, parent: click.Context | None = None
) -> Iterator[click.Context]:
    """Yield the context of `command` and of every command below it that is shown."""
    ctx = click.Context(
        command, info_name=command.name if parent else PROGRAM, parent=parent,
        **command.context_settings,
    )  # fmt: skip
    yield ctx
    if isinstance(command, click.Group):
        for below, _ in _commands(command, ctx).values():
            yield from contexts(below, ctx)


def _commands(group: click.Group, ctx: click.Context) -> dict[str, tuple[click.Command, str]]:
    """Return the commands of a group that have a page, each with where it works."""
    if isinstance(group, LazyGroup):
        names = group.documented_commands()
    else:
        names = dict.fromkeys(group.list_commands(ctx), "")
    found = {name: (group.get_command(ctx, name), where) for name, where in names.items()}
    return {
        name: (command, where)
        for name, (command, where) in found.items()
        if command is not None and not command.hidden
    }


def _works_on(ctx: click.Context) -> str:
    """Return where a command works: what is said of it or of a group above; empty: everywhere."""
    if ctx.parent is None:
        return ""
    above = ctx.parent.command
    assert isinstance(above, click.Group)
    _, where = _commands(above, ctx.parent)[ctx.info_name or ""]
    return where or _works_on(ctx.parent)


def page_name(ctx: click.Context) -> str:
    """Return the name of a command's page, without the section: `qemu-node-vm-list`."""
    return ctx.command_path.replace(" ", "-")


def render(ctx: click.Context, all_names: list[str]) -> str:
    """Return the page of a command, in man(7).

    Args:
        ctx: The command.
        all_names: The names of all pages, for SEE ALSO.
    """
    command = ctx.command
    name = page_name(ctx)
    # The first line would have a date, which no two builds share.
    lines = [f'.TH {escape(name.upper())} 1 "" "{PROGRAM} {VERSION}" "Nomad QEMU node"', ".SH NAME"]
    lines.append(f"{escape(name)} \\- {escape(_summary(command))}")
    lines += [".SH SYNOPSIS", f".B {escape(ctx.command_path)}"]
    lines += [f".I {escape(piece)}" for piece in command.collect_usage_pieces(ctx)]
    lines += [".SH DESCRIPTION", *_paragraphs(command.help or "")]
    if where := _works_on(ctx):
        lines += [".PP", escape(where)]
    options = [
        record
        for param in command.get_params(ctx)
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx))
    ]
    lines += _terms("OPTIONS", options)
    if isinstance(command, click.Group):
        below = [
            (name, f"{_summary(sub)}. {where}" if where else _summary(sub))
            for name, (sub, where) in _commands(command, ctx).items()
        ]
        lines += _terms("COMMANDS", below)
    lines += _epilog(command.epilog or "")
    if ctx.parent is None:
        lines += _terms("EXIT STATUS", _EXIT_STATUS)
        lines += _terms("ENVIRONMENT", _ENVIRONMENT)
        lines += _terms("FILES", _FILES)
    lines += _see_also(name, all_names)
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Return `text` as man(7) prints it literally: no request, no escape, real hyphens."""
    return re.sub(r"^\.", r"\\&.", text.translate(_PLAIN), flags=re.MULTILINE)


def _summary(command: click.Command) -> str:
    return command.get_short_help_str(limit=200).rstrip(".")


def _paragraphs(text: str) -> Iterator[str]:
    """Yield help text. Paragraphs are filled, but not those that begin with a backspace line."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        yield ".PP"
        if paragraph.startswith("\b\n"):
            yield from (".nf", escape(paragraph.removeprefix("\b\n")), ".fi")
        else:
            yield escape(" ".join(paragraph.split()))


def _terms(title: str, records: Sequence[tuple[str, str]]) -> Iterator[str]:
    if records:
        yield f".SH {title}"
    for term, meaning in records:
        yield from (".TP", f".B {escape(term)}", escape(" ".join(meaning.split())))


def _epilog(text: str) -> Iterator[str]:
    """Yield what is below a command's help: mostly its examples."""
    if not text:
        return
    first, *others = re.split(r"\n\s*\n", text.strip("\n"))
    block = first.removeprefix("\b\n")
    if block.startswith(_EXAMPLES):
        yield from (
            ".SH EXAMPLES",
            ".nf",
            escape(inspect.cleandoc(block.removeprefix(_EXAMPLES))),
            ".fi",
        )
    else:
        others.insert(0, first)
        yield ".SH NOTES"
    if others:
        yield from _paragraphs("\n\n".join(others))


def _see_also(name: str, all_names: list[str]) -> Iterator[str]:
    """Yield the pages directly above and below, and where the rest is."""
    near = [other for other in all_names if other == name.rpartition("-")[0]]
    near += [other for other in all_names if other.rpartition("-")[0] == name]
    yield ".SH SEE ALSO"
    yield from (f".BR {escape(other)} (1)," for other in near)
    yield f".I /usr/share/doc/{PROGRAM}/docs"


def main(directory: Path) -> None:
    """Write every page into `directory`."""
    found = list(contexts(cli))
    names = [page_name(ctx) for ctx in found]
    for ctx, name in zip(found, names, strict=True):
        (directory / f"{name}.1").write_text(render(ctx, names))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
