"""The group `qemu-node os`: its table of commands, and the paths that they share.

Owns the table: a command is a line here and a function in a module beside this one. Does not own
what the commands do (`nodeos`).
"""

from pathlib import Path

import click

from qemu_node.cli.lazy import LazyCommand, LazyGroup
from qemu_node.nodeos.paths import NodePaths

_ROOM = "qemu_node.cli.nodeos"


def _command(module: str, name: str, line: str) -> LazyCommand:
    return LazyCommand(f"{_ROOM}.{module}", name, line)


def _unit(module: str, name: str) -> LazyCommand:
    """Return a command that only units and hooks of the image call; it is not listed."""
    return LazyCommand(f"{_ROOM}.{module}", name, "", lambda: True)


_TABLE = {
    "status": _command("status", "status", "Show the system and what is kept of it."),
    "history": _command("status", "history", "List what happened to the system."),
    "upgrade": _command("upgrade", "upgrade", "Install a newer image of the system."),
    "rollback": _command("rollback", "rollback", "Go back to an earlier system."),
    "refused": _command(
        "rollback", "refused", "List the images that this node refuses, and clear one."
    ),
    "rollout": _command(
        "upgrade", "rollout", "Show the cluster's automatic upgrade, and clear a halt."
    ),
    "clean": _command("rollback", "clean", "Remove what no upgrade completed."),
    "drain": _command("nomad", "drain", "Move this node's VMs before it goes down."),
    "certificates": _command("nomad", "certificates", "Make missing certificates for Nomad."),
    "install": _command("install", "install", "Install the node's system on a disk."),
    "set": _command("settings", "set_", "Set host name or password for good."),
    "save": _command("settings", "save", "Save this node's configuration to a file."),
    "restore": _command("settings", "restore", "Restore a saved configuration."),
    "reset": _command("settings", "reset", "Factory reset."),
    "network": _command("network", "network", "Show how the node itself is connected."),
    **{
        name: _unit("units", name)
        for name in ("automatic", "health", "hook", "issue", "note", "settle", "verdict")
    },
    "data-mounted": _unit("settings", "data_mounted"),
    "network-keep": _unit("network", "network_keep"),
    "network-write": _unit("network", "network_write"),
}

pass_node = click.make_pass_decorator(NodePaths)
"""Give a command the node's paths; `pass_app` gives it the global options, as everywhere."""


@click.group(cls=LazyGroup, table=_TABLE, name="os")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default="/",
    hidden=True,
    help="Act on the tree below PATH: for tests.",
)
@click.pass_context
def os_(ctx: click.Context, root: Path) -> None:
    """Manage this node's operating system."""
    ctx.obj = NodePaths(root)
