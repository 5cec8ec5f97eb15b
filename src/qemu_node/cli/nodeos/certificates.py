"""`qemu-node os certificates`: a single node makes the certificates that its Nomad needs.

Owns the wording. Does not own what is made (`nodeos.agent.certificates`).
"""

import asyncio
import os

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.nodeos.paths import NodePaths


@click.command(
    help="""Make the certificates that Nomad's configuration names, if they are missing.

    Only for a node that is a cluster by itself, or that has the key of its cluster's CA
    (ca-key.pem beside ca.pem). The unit of Nomad calls this before each start; what is there
    stays as it is.""",
    epilog="""\b
Examples:
  qemu-node os certificates
""",
)
@pass_node
def certificates(paths: NodePaths) -> None:
    """Make missing certificates."""
    from qemu_node.nodeos.agent.certificates import Making, make_certificates
    from qemu_node.nodeos.agent.config import read_agent_config

    config = read_agent_config(paths.config)
    made = asyncio.run(make_certificates(config, "nomad", os.uname().nodename))
    match made:
        case Making.CERTIFICATE:
            click.echo(f"made a certificate for this node: {config.tls.cert_file}")
        case Making.CA_AND_CERTIFICATE:
            click.echo(f"made a CA and a certificate for this node: {config.tls.cert_file}")
        case Making.NOTHING | Making.IMPOSSIBLE:
            click.echo("nothing to make")
