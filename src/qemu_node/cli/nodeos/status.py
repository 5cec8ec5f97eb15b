"""`qemu-node os status`: which system runs, and what is kept of it."""

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import print_fields, print_json
from qemu_node.nodeos.boot import read_boot
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import read_release


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_node
def status(paths: NodePaths, as_json: bool) -> None:
    """Show the running system."""
    release, boot = read_release(paths), read_boot(paths)
    if as_json:
        print_json({"tag": release.tag, "mode": boot.mode, "snapshot": boot.snapshot})
        return
    print_fields(
        [
            ("system", release.pretty_name or "unknown"),
            ("tag", release.tag or "none: this is no image of the node's operating system"),
            ("booted", boot.mode),
            ("snapshot", "none" if boot.snapshot is None else str(boot.snapshot)),
        ]
    )
