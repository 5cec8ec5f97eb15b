"""Tables, JSON and durations, the same in every command.

Owns how a list looks: styled and cut to the width on a terminal, whole and aligned elsewhere, where
other programs read it. Does not own what is listed, nor the live view of a session (`runview`).
"""

import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import click
import msgspec

from qemu_node.errors import ConfigError
from qemu_node.text import clean
from qemu_node.units import GIB, KIB, MIB, TIB, parse_duration

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = False
    droppable: int = 0
    """Above 0: may be left out on a narrow terminal, the highest first."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and its style on a terminal."""

    text: str
    style: str = ""


Row = Sequence[Cell]


class Duration(click.ParamType[float]):
    """An option's duration in Go's notation, as seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds that `value` names; a bare number is seconds."""
        text = str(value)
        try:
            return parse_duration(f"{text}s" if re.fullmatch(r"\d+(\.\d+)?", text) else text)
        except ConfigError as exc:
            self.fail(exc.explain(), param, ctx)


@contextmanager
def waiting(title: str) -> Generator[Callable[[str], None]]:
    """Show what is being waited for: a spinner with the time taken on a terminal, else a line each.

    Goes to stderr, so that stdout holds the result alone. Gives a function that says what is done
    now.
    """
    if not sys.stderr.isatty():
        yield lambda text: click.echo(f"{title}: {clean(text)}", err=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr, highlight=False)
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(title, total=None)
        yield lambda text: console.print(clean(text), markup=False, style="dim", soft_wrap=True)


def say(line: str, *, err: bool = False) -> None:
    """Print a line that may hold words of others: of Nomad, a disk, a file's name."""
    click.echo(clean(line), err=err)


def print_json(value: object) -> None:
    """Print `value`, of types that msgspec knows, as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_table(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print a table on stdout."""
    rows = [[Cell(clean(cell.text), cell.style) for cell in row] for row in rows]
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        kept = fitting_columns(columns, rows, width)
        _print_rich([columns[n] for n in kept], [[row[n] for n in kept] for row in rows])
        return
    for line in plain_lines(columns, rows):
        click.echo(line)


def fitting_columns(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[int]:
    """Return the columns that are shown in `width` characters: pure.

    Droppable ones go, highest first, until the rest fits; what cannot be dropped is kept.
    """
    widths = _widths(columns, rows)
    kept = list(range(len(columns)))
    by_rank = sorted(kept, key=lambda n: -columns[n].droppable)
    for n in (n for n in by_rank if columns[n].droppable):
        if sum(widths[k] for k in kept) + len(_GAP) * (len(kept) - 1) <= width:
            break
        kept.remove(n)
    return kept


def plain_lines(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Return the table as aligned text, nothing cut: pure."""
    widths = _widths(columns, rows)
    lines = [[column.title.upper() for column in columns]]
    lines += [[cell.text or "-" for cell in row] for row in rows]
    return [
        _GAP.join(
            text.rjust(width) if column.is_number else text.ljust(width)
            for text, column, width in zip(line, columns, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def _widths(columns: Sequence[Column], rows: Sequence[Row]) -> list[int]:
    return [
        max(len(column.title), *(max(len(row[n].text), 1) for row in rows), 1)
        for n, column in enumerate(columns)
    ]


def _print_rich(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.title, justify="right" if column.is_number else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*(Text(cell.text, style=cell.style) for cell in row))
    # Not cut to the terminal: one that wraps whole lines keeps ids and names in one piece.
    needed = sum(width + len(_GAP) for width in _widths(columns, rows))
    Console(file=sys.stdout, highlight=False, width=needed).print(table)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print a name and its value on each line; a terminal gets long values wrapped and indented."""
    name_width = max(len(name) for name, _ in fields)
    indent = " " * (name_width + len(_GAP))
    limit = shutil.get_terminal_size().columns - len(indent) if sys.stdout.isatty() else 0
    for name, value in fields:
        text = clean(value)
        lines = textwrap.wrap(text, limit, break_on_hyphens=False) if limit > 20 else [text]
        label = click.style(name.ljust(name_width), bold=True)
        click.echo(f"{label}{_GAP}" + f"\n{indent}".join(lines))


def short_size(size_bytes: int) -> str:
    """Return `size_bytes` in at most five characters: `"512M"`, `"1.5G"`."""
    for factor, unit in ((TIB, "T"), (GIB, "G"), (MIB, "M"), (KIB, "K")):
        if size_bytes >= factor:
            value = size_bytes / factor
            return f"{value:.1f}".removesuffix(".0") + unit if value < 10 else f"{value:.0f}{unit}"
    return str(size_bytes)


def short_time(seconds: float) -> str:
    """Return a time span by its two largest units: `"42s"`, `"3m10s"`, `"2h5m"`, `"9d4h"`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour}h"
    if hours:
        return f"{hour}h{minute}m"
    return f"{minute}m{second}s" if minutes else f"{second}s"
