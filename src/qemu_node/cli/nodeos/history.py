"""`qemu-node os history`: what happened to the system."""

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import Cell, Column, print_json, print_table
from qemu_node.nodeos.ledger.history import read_history
from qemu_node.nodeos.paths import NodePaths

_COLUMNS = (
    Column("Time"),
    Column("Event"),
    Column("Snapshot", is_number=True),
    Column("Tag"),
    Column("Note"),
)


@click.command()
@click.option("-n", "--lines", type=click.IntRange(min=1), default=30, show_default=True,
              help="How many of the newest events.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with digests.")
@pass_node
def history(paths: NodePaths, lines: int, as_json: bool) -> None:
    """List what happened to the system, the oldest first."""
    events = read_history(paths)[-lines:]
    if as_json:
        print_json(events)
    elif events:
        print_table(
            _COLUMNS,
            [
                [
                    Cell(event.at),
                    Cell(event.event),
                    Cell("" if event.snapshot is None else str(event.snapshot)),
                    Cell(event.tag),
                    Cell(event.note),
                ]
                for event in events
            ],
        )
    else:
        click.echo("nothing has happened to this system yet", err=True)
