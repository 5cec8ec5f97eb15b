"""`qemu-node os rollout`: the cluster's automatic upgrade."""

import asyncio

import click

from qemu_node.cli.main import App, pass_app
from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import print_fields, print_json
from qemu_node.errors import HostError
from qemu_node.nodeos.paths import NodePaths


@click.command()
@click.option("--clear", is_flag=True, help="Let the nodes go on: nobody upgrades, nothing failed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
@pass_node
def rollout(paths: NodePaths, app: App, clear: bool, as_json: bool) -> None:
    """Show which node of the cluster upgrades itself, or why none does."""
    from qemu_node.nodeos.rollout.lock import Rollout, RolloutLock

    config = app.load_config()
    if not config.os.lock:
        raise HostError(
            "os.lock in node.toml is empty: the nodes do not wait for each other",
            hint="`qemu-node os history` says what this node did",
        )

    async def act() -> Rollout:
        lock = RolloutLock.of_node(paths, config.os)
        found = await lock.read()
        if not clear:
            return found
        if not await lock.write(Rollout()):
            raise HostError("it has changed meanwhile", hint="look again")
        return Rollout()

    found = asyncio.run(act())
    if as_json:
        print_json(found)
        return
    fields = [
        ("phase", found.phase),
        ("node", found.node),
        ("image", found.tag or found.digest),
        ("since", found.since),
        ("reason", found.reason),
    ]
    print_fields([(name, value) for name, value in fields if value])
