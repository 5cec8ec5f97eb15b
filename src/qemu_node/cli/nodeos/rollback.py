"""`qemu-node os rollback`, `refused` and `clean`: which images of the system stay, and which go.

Owns the options and the wording. Does not own what is done (`nodeos.rollback`, `nodeos.snapshots`).
"""

import asyncio

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import Cell, Column, print_json, print_table, say
from qemu_node.errors import HostError
from qemu_node.nodeos.ledger.refusals import forgive, read_refused
from qemu_node.nodeos.paths import NodePaths

_REFUSED = (Column("Tag"), Column("Digest"), Column("Since"), Column("Reason"))


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

    NUMBER is a snapshot of `qemu-node os status`. Without it: the running one if the next boot
    would take another; otherwise the newest other one, preferably one that has passed the health
    check. The image that is left is refused, so that no upgrade brings it back; `qemu-node os
    refused` clears that.
    """
    from qemu_node.nodeos.rollback import roll_back
    from qemu_node.nodeos.shutdown.restart import restart

    target = asyncio.run(roll_back(paths, number, keep=keep))
    name = target.record.tag or f"snapshot {target.number}"
    say(f"the next boot takes {name}")
    if reboot:
        asyncio.run(restart(paths, reason=f"back to {name}", drain_timeout_s=None, tell=say))
    else:
        click.echo("restart the node: `systemctl reboot`")


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
        print_table(_REFUSED, rows)
    else:
        click.echo("no image is refused", err=True)


@click.command()
@pass_node
def clean(paths: NodePaths) -> None:
    """Remove half images and refused ones, and have GRUB's list name only what can be booted.

    Every upgrade does this first. It refuses while an image is being installed.
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
