"""`qemu-node os rollback`: go back to an earlier system, and stay there."""

import asyncio

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.nodeos.paths import NodePaths


@click.command(
    epilog="""\b
Examples:
  qemu-node os rollback --reboot          # to the system before this one
  qemu-node os rollback 3                 # to snapshot 3 of `qemu-node os status`
"""
)
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--reboot", is_flag=True, help="Restart the node afterwards; its VMs end cleanly.")
@click.option("--keep", is_flag=True, help="Do not refuse the image that is left.")
@pass_node
def rollback(paths: NodePaths, number: int | None, reboot: bool, keep: bool) -> None:
    """Make an earlier snapshot the one that boots, from the next restart on.

    NUMBER is a snapshot of `qemu-node os status`; without it the newest that has passed the health
    check, other than the running one. The image that is left is refused, so that no upgrade
    brings it back; `qemu-node os refused` clears that.
    """
    from qemu_node.nodeos.rollback import roll_back
    from qemu_node.nodeos.upgrade.restart import restart

    target = asyncio.run(roll_back(paths, number, keep=keep))
    name = target.record.tag or f"snapshot {target.number}"
    click.echo(f"the next boot takes {name}")
    if reboot:
        asyncio.run(restart(paths, reason=f"back to {name}", drain_timeout_s=None, tell=click.echo))
    else:
        click.echo("restart the node: `systemctl reboot`")
