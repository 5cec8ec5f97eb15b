"""The commands of `qemu-node os` that units, hooks and the boot assessment call; hidden from help.

Owns their exit statuses: a unit that fails here shows up in `systemctl --failed`.
"""

import asyncio
import datetime
import os
import signal

import click

from qemu_node.cli.errortext import EXIT_ERROR
from qemu_node.cli.main import App, pass_app
from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import Duration, say
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.snapshots.verdict import Outcome

_SETTLE_WAIT_S = 60.0
"""Within the time limit of elemental-boot-assessment.service."""


@click.command()
@click.option("--timeout", "timeout_s", type=Duration(), default="120s", show_default=True,
              metavar="DURATION", help="How long to wait for the node to be well.")  # fmt: skip
@click.option("--once", is_flag=True, help="Do not look if this system has passed before.")
@click.pass_context
@pass_node
def health(paths: NodePaths, ctx: click.Context, timeout_s: float, once: bool) -> None:
    """Say whether the node is well; exit with status 1 if not."""
    from qemu_node.nodeos.health import wait_until_well
    from qemu_node.nodeos.snapshots.facts import read_facts
    from qemu_node.nodeos.snapshots.verdict import needs_no_check

    if once and needs_no_check(read_facts(paths)):
        click.echo("this system has passed the check before")
        return
    faults = asyncio.run(wait_until_well(paths, timeout_s=timeout_s, tell=say))
    for fault in faults:
        say(f"fault: {fault}", err=True)
    if faults:
        ctx.exit(EXIT_ERROR)
    click.echo("the node is well")


@click.command()
@pass_node
def note(paths: NodePaths) -> None:
    """Note how this boot began."""
    from qemu_node.nodeos.snapshots.settle import note as note_boot

    began = asyncio.run(note_boot(paths))
    if not began.is_judged:
        click.echo("the health check of this boot decides which system stays")


@click.command()
@pass_node
def verdict(paths: NodePaths) -> None:
    """Have GRUB go on to the next snapshot, if the health check has failed.

    Called when the boot assessment has ended (systemd.exec(5), $SERVICE_RESULT).
    """
    from qemu_node.nodeos.snapshots.settle import fail

    if os.environ.get("SERVICE_RESULT", "success") != "success":
        asyncio.run(fail(paths))
        click.echo("the health check has failed: another failure goes back to the system before")


@click.command()
@pass_node
def settle(paths: NodePaths) -> None:
    """Make good what this boot means; the health check has passed."""
    from qemu_node.nodeos.snapshots.clean import system_lock
    from qemu_node.nodeos.snapshots.settle import settle as settle_boot

    async def act() -> None:
        # Undone, it would be done at the next boot: of the image that has just failed, maybe.
        async with system_lock(paths, wait_s=_SETTLE_WAIT_S):
            verdict = await settle_boot(paths)
        match verdict.outcome:
            case Outcome.CONFIRM:
                click.echo("this system stays")
            case Outcome.PROMOTE | Outcome.REPAIR:
                click.echo(f"went back to this system for good: {verdict.reason}")
            case Outcome.LEAVE:
                click.echo(f"an older system runs; the next boot takes the other: {verdict.reason}")
            case Outcome.NOTHING:
                pass

    asyncio.run(act())


@click.command()
@click.argument("stage")
@pass_node
def hook(paths: NodePaths, stage: str) -> None:
    """Do what belongs to STAGE of an upgrade; Elemental calls this."""
    from qemu_node.nodeos.upgrade.hooks import run_hook

    asyncio.run(run_hook(paths, stage))


@click.command()
@pass_app
@pass_node
def automatic(paths: NodePaths, app: App) -> None:
    """Upgrade, if node.toml says so and it is time to. A timer calls this."""
    config = app.load_config()
    if not config.os.automatic:
        return
    from qemu_node.nodeos.rollout.automatic import tick

    now = datetime.datetime.now().astimezone()

    async def act() -> None:
        task = asyncio.current_task()
        assert task is not None
        # A stop of the unit, or a shutdown: what was begun is undone.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await tick(paths, config, say, now=now)

    try:
        asyncio.run(act())
    except asyncio.CancelledError:
        raise click.Abort from None


@click.command()
@pass_node
def issue(paths: NodePaths) -> None:
    """Write what the console shows above the login prompt."""
    from qemu_node.host.files.atomic import write_atomic
    from qemu_node.nodeos.issue import console_text, read_facts

    write_atomic(paths.issue, console_text(read_facts(paths)).encode())
