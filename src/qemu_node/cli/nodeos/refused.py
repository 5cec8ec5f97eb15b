"""`qemu-node os refused`: the images that this node does not install again."""

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import Cell, Column, print_json, print_table
from qemu_node.errors import HostError
from qemu_node.nodeos.ledger.refusals import forgive, read_refused
from qemu_node.nodeos.paths import NodePaths

_COLUMNS = (Column("Tag"), Column("Digest"), Column("Since"), Column("Reason"))


@click.command(
    epilog="""\b
Examples:
  qemu-node os refused
  qemu-node os refused --clear sha256:3f9c…      # a tag, or the beginning of a digest
  qemu-node os refused --clear-all
"""
)
@click.option("--clear", "names", multiple=True, metavar="IMAGE",
              help="Take an image off the list; may be repeated.")  # fmt: skip
@click.option("--clear-all", is_flag=True, help="Take all images off the list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_node
def refused(paths: NodePaths, names: tuple[str, ...], clear_all: bool, as_json: bool) -> None:
    """List the images that did not come up here, or from which an operator went back.

    They are not installed again without --force. A newer image has another digest.
    """
    known = read_refused(paths)
    for name in names:
        prefix = name.removeprefix("sha256:")
        found = [
            entry.digest
            for entry in known
            if entry.tag == name
            or (len(prefix) >= 6 and entry.digest.removeprefix("sha256:").startswith(prefix))
        ]
        if not found:
            raise HostError(f"no image {name} is refused", hint="`qemu-node os refused` lists them")
        forgive(paths, found)
    if clear_all:
        forgive(paths, [entry.digest for entry in known])
    if names or clear_all:
        return
    if as_json:
        print_json(known)
    elif known:
        rows = [
            [Cell(entry.tag), Cell(entry.digest), Cell(entry.at), Cell(entry.reason)]
            for entry in known
        ]
        print_table(_COLUMNS, rows)
    else:
        click.echo("no image is refused", err=True)
