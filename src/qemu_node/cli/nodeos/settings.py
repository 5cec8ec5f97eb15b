"""`qemu-node os set`, `save`, `restore`, `reset` and what data.mount calls.

Owns the options, the questions to a person and what is printed. Does not own what is done
(`nodeos.settings`).
"""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import say
from qemu_node.errors import AS_ROOT, HostError, MissingPartError
from qemu_node.nodeos.boot import BootMode, read_boot
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import read_release

if TYPE_CHECKING:
    from qemu_node.nodeos.settings.archive import Saved

_SECRETS = "it holds secrets: the host key, TLS keys, the password's hash"
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command(
    help="""Save this node's whole configuration to FILE.

    It has /data/config and the settings on /oem: keys, the password's hash, host name and host
    key, the uplink. It has no VM, no image and nothing of Nomad's state. - is standard output.""",
    epilog="""\b
Examples:
  qemu-node os save node1.tar.gz
  ssh root@node1 qemu-node os save - > node1.tar.gz
""",
)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@pass_node
def save(paths: NodePaths, /, file: Path) -> None:
    """Save the configuration."""
    from qemu_node.host.files.atomic import write_atomic
    from qemu_node.nodeos.settings.archive import collect, pack, unpack

    _require_root("a node's settings are root's")
    data = pack(collect(paths, read_release(paths).tag))
    # Better now than when the node is lost.
    unpack(data, "what would be saved")
    if str(file) == "-":
        if sys.stdout.isatty():
            raise click.UsageError("an archive is nothing for a terminal: redirect it to a file")
        sys.stdout.buffer.write(data)
    else:
        write_atomic(file, data, mode=0o600)
    click.echo(f"saved; keep it safe: {_SECRETS}", err=True)


@click.command(
    help="""Make this node's configuration that of FILE, which `save` has written.

    The present configuration is saved before. /data/config has afterwards what FILE has, and
    nothing else. Without /data its part waits until that is mounted.""",
    epilog="""\b
Examples:
  qemu-node os restore node1.tar.gz
  qemu-node os restore --as-new-node node1.tar.gz
""",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--as-new-node", is_flag=True, help="Leave out host name and host key.")
@_yes
@pass_node
def restore(paths: NodePaths, /, file: Path, as_new_node: bool, yes: bool) -> None:
    """Restore a configuration."""
    from qemu_node.nodeos.settings.archive import collect
    from qemu_node.nodeos.settings.restore import changes
    from qemu_node.nodeos.settings.restore import restore as put_back

    _require_root("a node's settings are root's")
    if not read_boot(paths).is_installed:
        raise HostError(
            "this is no installed node", hint="on the live system: `elemental install --restore`"
        )
    wanted = read_archive(file)
    if as_new_node:
        wanted = wanted.without_identity()
    tag = read_release(paths).tag
    lines = changes(collect(paths, tag), wanted)
    if not lines:
        click.echo("nothing differs")
        return
    for line in lines:
        say(line)
    _confirm("Restore this?", yes=yes)
    kept = put_back(
        paths, wanted, tag=tag, is_data_mounted=os.path.ismount(paths.data), now=datetime.now(UTC)
    )
    click.echo(f"restored; the configuration before is in {kept}: {_SECRETS}")
    click.echo("reboot the node to use all of it; `systemctl restart nomad` for Nomad alone")


def read_archive(file: Path) -> "Saved":
    """Return the configuration in `file`.

    Raises:
        NodeError: it is no archive of a node.
    """
    from qemu_node.host.files.atomic import host_error
    from qemu_node.nodeos.settings.archive import unpack

    try:
        return unpack(file.read_bytes(), str(file))
    except OSError as exc:
        raise host_error("read", file, exc) from exc


@click.command(
    help="""Set this node back to the system of its recovery partition, with empty logs.

    It reboots into the recovery system, which does it and reboots again. What is on /oem stays:
    the installation's keys and password, host name, uplink. /root with its own keys goes, and a
    host key that the node has made itself. /data stays unless --data is given.""",
    epilog="""\b
Examples:
  qemu-node os reset
  qemu-node os reset --data
""",
)
@click.option("--data", "erases_data", is_flag=True, help="Erase /data, too: VMs, images, config.")
@click.option("--continue", "continues", is_flag=True, hidden=True, help="For the unit.")
@_yes
@pass_node
def reset(paths: NodePaths, /, erases_data: bool, continues: bool, yes: bool) -> None:
    """Order or carry out a factory reset."""
    from qemu_node.host.process.command import run_blocking
    from qemu_node.nodeos.settings.reset import Order, carry_out, order_reset, read_order
    from qemu_node.nodeos.setup.disks import read_disks

    _require_root("a reset writes to disks")
    mode = read_boot(paths).mode
    if continues:
        order = read_order(paths)
        if order is None or mode is not BootMode.RECOVERY:
            click.echo("no factory reset was ordered")
            return
        click.echo("resetting the node; this takes some minutes")
        asyncio.run(carry_out(paths, order, read_disks()))
        click.echo("the node is reset")
    else:
        if mode not in (BootMode.ACTIVE, BootMode.PASSIVE):
            raise HostError(
                "this is no installed node", hint="in the recovery system: `elemental reset`"
            )
        lost = "all logs, /root with its keys, a host key that it has made itself"
        lost += " and all of /data" if erases_data else ""
        _confirm(f"The node reboots, and loses its systems, {lost}. Reset it?", yes=yes)
        order_reset(paths, Order(erases_data=erases_data))
    run_blocking(["systemctl", "--no-block", "reboot"])


@click.command(
    "set",
    help="""Set this node's host name or root's password, now and for every later boot.

    `hostname` and `passwd` would last until the next boot. The password is for the console; sshd
    takes keys only.""",
    epilog="""\b
Examples:
  qemu-node os set --hostname node1.example.org
  qemu-node os set --password
""",
)
@click.option("--hostname", metavar="NAME", help="The node's host name.")
@click.option("--password", is_flag=True, help="Ask for a password of root.")
@pass_node
def set_(paths: NodePaths, /, hostname: str | None, password: bool) -> None:
    """Set a setting of the host."""
    from qemu_node.nodeos.settings.host import keep_hostname, keep_password
    from qemu_node.nodeos.setup.login import LIVE_PASSWORD, hash_password

    _require_root("a node's settings are root's")
    if hostname is None and not password:
        raise click.UsageError("say what to set: --hostname NAME or --password")
    if not read_boot(paths).is_installed:
        raise HostError("this is no installed node", hint="on the live system: `passwd`")
    if hostname is not None:
        keep_hostname(paths, hostname)
    if password:
        typed = click.prompt("Password of root", hide_input=True, confirmation_prompt=True)
        if typed == LIVE_PASSWORD:
            raise click.UsageError("everybody knows that password: choose another")
        keep_password(paths, hash_password(typed))


@click.command("data-mounted")
@pass_node
def data_mounted(paths: NodePaths, /) -> None:
    """Do what is to be done when /data was mounted."""
    from qemu_node.nodeos.settings.datamount import apply_config, data_disk, remember_disk
    from qemu_node.nodeos.setup.disks import read_disks

    _require_root("/data is root's")
    if not os.path.ismount(paths.data):
        raise HostError(f"nothing is mounted on {paths.data}", hint="mount LABEL=DATA /data")
    # First, because Nomad waits for it; a broken disk elsewhere does not keep it from that.
    for name in apply_config(paths):
        click.echo(f"{paths.config / name}: from the installation")
    key = data_disk(read_disks(looks_at_disks=False), str(paths.data))
    if remember_disk(paths, key):
        click.echo(f"the disk of /data is now {key or 'any with the label DATA'}")


def _require_root(reason: str) -> None:
    if os.geteuid() != 0:
        raise MissingPartError(reason, hint=AS_ROOT)


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to ask: give --yes")
    click.confirm(question, abort=True)
