"""`qemu-node os clean`: remove what no upgrade completed."""

import asyncio

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.nodeos.paths import NodePaths


@click.command()
@pass_node
def clean(paths: NodePaths) -> None:
    """Remove half images and refused ones, and have GRUB's list name only what can be booted.

    Every upgrade does this first. Do not call it while /usr/bin/elemental installs an image.
    """
    from qemu_node.nodeos.snapshots.clean import clean as clean_snapshots
    from qemu_node.nodeos.snapshots.clean import system_lock, tidy_mounts
    from qemu_node.nodeos.snapshots.plan import Plan

    async def act() -> Plan:
        async with system_lock(paths):
            await tidy_mounts(paths)
            return await clean_snapshots(paths)

    plan = asyncio.run(act())
    for removal in plan.removals:
        click.echo(f"removed snapshot {removal.number}: {removal.reason}")
    if not plan.removals:
        click.echo("nothing to remove", err=True)
