"""`qemu-node os upgrade`, and `rollout` for the cluster's automatic ones.

Owns the options and the wording. Does not own what is done (`nodeos.upgrade`, `nodeos.rollout`).
`elemental upgrade …` leads here on a node: the options that Elemental has in common are the same.
"""

import asyncio
import signal

import click

from qemu_node.cli.main import App, pass_app
from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import Duration, print_fields, print_json, say
from qemu_node.errors import HostError
from qemu_node.nodeos.paths import NodePaths


@click.command(
    epilog="""\b
Examples:
  qemu-node os upgrade --reboot
  qemu-node os upgrade --check                    # is there a newer image?
  qemu-node os upgrade --system oci:registry.example/nomad-qemu-node:v2
"""
)
@click.option("--system", metavar="IMAGE",
              help="The image: oci:REGISTRY/REPOSITORY:TAG, or …@sha256:… for exactly one.  "
              "[default: os.source in node.toml, else where the running one is from]")  # fmt: skip
@click.option("--reboot", is_flag=True, help="Drain the node and restart it afterwards.")
@click.option("--check", "only_check", is_flag=True,
              help="Install nothing; fail if the image may not be installed.")  # fmt: skip
@click.option("--force", is_flag=True,
              help="Install an image that this node refuses, or while the running one is "
              "still being checked.")  # fmt: skip
@click.option("--allow-downgrade", is_flag=True, help="Install an image older than this one.")
@click.option("--recovery", is_flag=True, help="Replace the recovery system, too.")
@click.option("--bootloader", is_flag=True, help="Replace the boot loader, too.")
@click.option("--no-drain", is_flag=True,
              help="With --reboot: end the VMs here instead of moving them.")  # fmt: skip
@click.option("--drain-timeout", "drain_timeout_s", type=Duration(), metavar="DURATION",
              help="How long moving them may take.  [default: os.drain_timeout]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
@pass_node
def upgrade(
    paths: NodePaths,
    app: App,
    *,
    system: str | None,
    reboot: bool,
    only_check: bool,
    force: bool,
    allow_downgrade: bool,
    recovery: bool,
    bootloader: bool,
    no_drain: bool,
    drain_timeout_s: float | None,
    as_json: bool,
) -> None:
    """Install a newer image of the system beside the running one.

    A tag is looked up in its registry's signed manifest; the image is installed by the digest that
    stands there. The present system is kept. The new one runs after a restart, and stays if it
    passes the health check; otherwise the node goes back by itself.
    """
    from qemu_node.nodeos.shutdown.restart import restart
    from qemu_node.nodeos.upgrade.checks import Waiver
    from qemu_node.nodeos.upgrade.run import UpgradeOptions, UpgradeResult
    from qemu_node.nodeos.upgrade.run import upgrade as run_upgrade

    config = app.load_config()
    given = {Waiver.FORCE: force, Waiver.DOWNGRADE: allow_downgrade}
    options = UpgradeOptions(
        system=system,
        waivers=frozenset(waiver for waiver, is_given in given.items() if is_given),
        recovery=recovery,
        bootloader=bootloader,
        only_check=only_check,
    )
    limit_s = config.os.drain_timeout_s if drain_timeout_s is None else drain_timeout_s

    async def act() -> UpgradeResult:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        # As Ctrl-C: what was begun is undone.
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        result = await run_upgrade(paths, config, options, _tell)
        if reboot and result.needs_reboot and not only_check:
            await restart(
                paths,
                reason=f"upgrade to {result.target.name}",
                drain_timeout_s=None if no_drain else limit_s,
                tell=_tell,
            )
        return result

    # A connection that breaks is no reason to stop half way.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = asyncio.run(act())
    except asyncio.CancelledError:
        raise click.Abort from None
    if as_json:
        print_json(
            {
                "tag": result.target.tag,
                "digest": result.target.digest,
                "installed": result.is_installed,
                "needs_reboot": result.needs_reboot,
            }
        )
        return
    name = result.target.name
    if not result.needs_reboot:
        click.echo(f"{name} runs already")
    elif only_check:
        click.echo(f"{name} can be installed: `qemu-node os upgrade --reboot`")
    elif not reboot:
        click.echo(f"{name} is installed and runs after a restart: `systemctl reboot`")


def _tell(line: str) -> None:
    try:
        say(line, err=True)
    except OSError:
        return  # nobody listens any more


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
