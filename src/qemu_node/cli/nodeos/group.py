"""The group `qemu-node os`: its table of commands, and the paths that they share.

Owns the table: a part that adds a command adds a line here and a module beside this one. Does not
own what the commands do (`nodeos`).
"""

from pathlib import Path

import click

from qemu_node.cli.lazy import LazyCommand, LazyGroup
from qemu_node.nodeos.paths import NodePaths

_ROOM = "qemu_node.cli.nodeos"


def _for_units() -> bool:
    """Hide a command that only units of the image call."""
    return True


def _unit(name: str, line: str) -> LazyCommand:
    """Return a command that only units and hooks of the image call; it is not listed."""
    return LazyCommand(f"{_ROOM}.units", name, line, _for_units)


_TABLE = {
    "issue": LazyCommand(f"{_ROOM}.issue", "issue", "", _for_units),
    "status": LazyCommand(f"{_ROOM}.status", "status", "Show the system and what is kept of it."),
    "history": LazyCommand(f"{_ROOM}.history", "history", "List what happened to the system."),
    "upgrade": LazyCommand(f"{_ROOM}.upgrade", "upgrade", "Install a newer image of the system."),
    "rollback": LazyCommand(f"{_ROOM}.rollback", "rollback", "Go back to an earlier system."),
    "refused": LazyCommand(
        f"{_ROOM}.refused", "refused", "List the images that this node refuses, and clear one."
    ),
    "rollout": LazyCommand(
        f"{_ROOM}.rollout", "rollout", "Show the cluster's automatic upgrade, and clear a halt."
    ),
    "clean": LazyCommand(f"{_ROOM}.clean", "clean", "Remove what no upgrade completed."),
    "drain": LazyCommand(f"{_ROOM}.drain", "drain", "Move this node's VMs before it goes down."),
    "certificates": LazyCommand(
        f"{_ROOM}.certificates", "certificates", "Make missing certificates for Nomad."
    ),
    "health": _unit("health", "Say whether the node is well."),
    "note": _unit("note", "Note how this boot began."),
    "verdict": _unit("verdict", "Go on to the next snapshot after a failed check."),
    "hook": _unit("hook", "Do what belongs to a stage of an upgrade."),
    "automatic": _unit("automatic", "Upgrade if it is time to."),
    "settle": _unit("settle", "Make good what this boot means."),
    "install": LazyCommand(f"{_ROOM}.install", "install", "Install the node's system on a disk."),
    "set": LazyCommand(f"{_ROOM}.settings", "set_", "Set host name or password for good."),
    "save": LazyCommand(f"{_ROOM}.settings", "save", "Save this node's configuration to a file."),
    "restore": LazyCommand(f"{_ROOM}.settings", "restore", "Restore a saved configuration."),
    "reset": LazyCommand(f"{_ROOM}.settings", "reset", "Factory reset."),
    "data-mounted": LazyCommand(f"{_ROOM}.settings", "data_mounted", "", _for_units),
    "network": LazyCommand(f"{_ROOM}.network", "network", "Show how the node itself is connected."),
    "network-write": LazyCommand(
        f"{_ROOM}.network", "network_write", "Write networkd's files.", _for_units
    ),
    "network-keep": LazyCommand(
        f"{_ROOM}.network", "network_keep", "Copy [uplink] of node.toml.", _for_units
    ),
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
