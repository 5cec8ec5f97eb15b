"""A group of commands that are imported when they are called.

Owns the class. The tables of commands are beside the groups.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is, and its line in the list of commands."""

    module: str
    attribute: str
    line: str
    is_hidden: Callable[[], bool] = lambda: False
    """Whether it is left out of the list. It can be called all the same."""
    works_on: str = ""
    """Where it is of use, in words; empty: everywhere. Manual pages have it on every machine."""

    def load(self) -> click.Command:
        """Import the command."""
        command: click.Command = getattr(importlib.import_module(self.module), self.attribute)
        return command


class LazyGroup(click.Group):
    """A group that knows its commands by a table, so that `--help` imports none of them."""

    def __init__(self, *args: Any, table: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names that are shown."""
        return [name for name, command in self._table.items() if not command.is_hidden()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, also one that is not shown."""
        found = self._table.get(cmd_name)
        return found.load() if found else None

    def documented_commands(self) -> dict[str, str]:
        """Return the names that manual pages have, the same on every machine, with `works_on`."""
        return {
            name: command.works_on
            for name, command in self._table.items()
            if command.works_on or not command.is_hidden()
        }

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            names = self.list_commands(ctx)
            formatter.write_dl([(name, self._table[name].line) for name in names])
