"""`qemu-node os issue`: writes what the console shows above the login prompt. For a unit."""

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.host.files.atomic import write_atomic
from qemu_node.nodeos.issue import console_text, read_facts
from qemu_node.nodeos.paths import NodePaths


@click.command()
@pass_node
def issue(paths: NodePaths) -> None:
    """Write the console's text."""
    write_atomic(paths.issue, console_text(read_facts(paths)).encode())
