"""`qemu-node doctor`: what this machine lacks for VMs, and what to do about it."""

import asyncio
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from qemu_node.cli.errortext import EXIT_ERROR
from qemu_node.cli.main import App, pass_app
from qemu_node.cli.terminal import print_json
from qemu_node.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from rich.table import Table

    from qemu_node.cli.doctor.checks import Check

_NAME_WIDTH = 11
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_DETAIL_MAX_CHARS = 300
"""QEMU may say a lot when it fails; all of it is in --json."""


@click.command(
    help="""Check what VMs need on this machine; say what to do about what is missing.

    \b
    ok    as it should be
    warn  VMs run, but not as fast or as safely as they could
    fail  VMs cannot run until this is fixed""",
    epilog="""\b
Examples:
  qemu-node doctor
  sudo qemu-node doctor            # as the node's driver sees it
  qemu-node doctor --json | jq -r '.checks[] | select(.level == "fail") | .advice'

Exits with status 1 if a check fails. To see whether KVM works, a guest is started for a moment; a
success is remembered until QEMU, firmware or kernel change.
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
@click.pass_context
def doctor(ctx: click.Context, app: App, as_json: bool) -> None:
    """Check this machine."""
    found = asyncio.run(_examine(app, is_shown=not as_json))
    has_failed = any(check.level == "fail" for check in found)
    if as_json:
        print_json({"ok": not has_failed, "checks": found})
    else:
        click.echo(summary(found))
    ctx.exit(EXIT_ERROR if has_failed else 0)


async def _examine(app: App, *, is_shown: bool) -> "list[Check]":
    # Imported here: --help needs none of it.
    from qemu_node.cli.doctor.nodefacts import examine

    found = []
    with _printer() if is_shown else nullcontext(lambda _check: None) as show:
        async for check in examine(app.config_path):
            show(check)
            found.append(check)
    return found


def plain_line(check: "Check") -> str:
    """Return a check on one line, for programs and logs: pure."""
    advice = f" -> {check.advice}" if check.advice else ""
    return f"{check.level:<4}  {check.name:<{_NAME_WIDTH}}  {_cut(check.detail)}{advice}"


def summary(checks: "Sequence[Check]") -> str:
    """Return the last line: pure."""
    failures = sum(check.level == "fail" for check in checks)
    warnings = sum(check.level == "warn" for check in checks)
    if failures:
        return f"{_count(failures, 'failure')}, {_count(warnings, 'warning')}: VMs cannot run here"
    return f"VMs can run here; {_count(warnings, 'warning')}"


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _cut(text: str) -> str:
    text = " ".join(clean(text).split())
    return text if len(text) <= _DETAIL_MAX_CHARS else text[: _DETAIL_MAX_CHARS - 1] + "…"


@contextmanager
def _printer() -> "Generator[Callable[[Check], None]]":
    """Give what shows a check: in columns that wrap on a terminal, a line each elsewhere."""
    if not sys.stdout.isatty():
        yield lambda check: click.echo(plain_line(check))
        return
    from rich.console import Console

    console = Console(highlight=False)
    with console.status("looking; a guest is started to see whether it runs"):
        yield lambda check: console.print(_grid(check))


def _grid(check: "Check") -> "Table":
    """Return a check as a table of one row."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=4)
    grid.add_column(width=_NAME_WIDTH)
    grid.add_column(overflow="fold")
    style = _STYLES[check.level]
    grid.add_row(Text(check.level, style=style), Text(check.name), Text(_cut(check.detail)))
    if check.advice:
        grid.add_row("", "", Text(f"→ {check.advice}", style="cyan"))
    return grid
