"""`qemu-node os drain` and `certificates`: what this node asks of its Nomad, and makes for it.

Owns the options and the wording. Does not own what is done (`nodeos.shutdown`,
`nodeos.agent.certificates`).
"""

import asyncio
import os

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import Duration, print_json
from qemu_node.nodeos.paths import NodePaths
from qemu_node.text import clean


@click.command(
    help="""Drain this node, so that its VMs move before it goes down.

    With the node's own secret; no token is needed. Nothing is done if no other node can take the
    VMs: a shutdown stops them cleanly, and they start again here. The node takes work again after
    its next boot, unless an operator has drained it or made it ineligible.""",
    epilog="""\b
Examples:
  qemu-node os drain && reboot
  qemu-node os drain --undo      # take work again now
""",
)
@click.option("--timeout", "timeout_s", type=Duration(), default="10m", show_default=True,
              metavar="DURATION", help="When Nomad stops waiting to move VMs one after the other; "
              "with --undo, how long to wait for Nomad.")  # fmt: skip
@click.option("--reason", default="the node goes down for maintenance", show_default=True,
              help="For people who look at the node in Nomad.")  # fmt: skip
@click.option("--undo", is_flag=True, help="End a drain that this command began.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_node
@click.pass_context
def drain(
    ctx: click.Context, paths: NodePaths, timeout_s: float, reason: str, undo: bool, as_json: bool
) -> None:
    """Drain this node."""
    from qemu_node.nodeos.shutdown import drain as shutdown

    def tell(line: str) -> None:
        click.echo(clean(line), err=True)

    if undo:
        undone = asyncio.run(shutdown.undo_drain(paths, tell=tell, timeout_s=timeout_s))
        if undone is None:
            tell("this command has not drained the node: nothing to undo")
        if as_json:
            print_json({"undone": undone})
        return
    drained = asyncio.run(shutdown.drain(paths, reason=reason, tell=tell, timeout_s=timeout_s))
    if as_json:
        print_json({"choice": drained.choice, "is_complete": drained.is_complete})
    ctx.exit(0 if drained.is_complete else 1)


@click.command(
    help="""Make the certificates that Nomad's configuration names, if they are missing.

    Only for a node that is a cluster by itself, or that has the key of its cluster's CA
    (ca-key.pem beside ca.pem). The unit of Nomad does this before each start; what is there
    stays as it is.""",
    epilog="""\b
Examples:
  qemu-node os certificates
""",
)
@pass_node
def certificates(paths: NodePaths) -> None:
    """Make missing certificates."""
    from qemu_node.nodeos.agent.certificates import make_certificates
    from qemu_node.nodeos.agent.config import read_agent_config

    config = read_agent_config(paths.config)
    making = asyncio.run(make_certificates(config, "nomad", os.uname().nodename))
    click.echo(making.say(config))
