"""`qemu-node os network`: how the node itself is connected, and the commands of its units.

Owns what is shown. Does not own the decisions (`nodeos.uplink`).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from qemu_node.cli.errortext import EXIT_ERROR
from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import Cell, Column, print_fields, print_json, print_table, say
from qemu_node.config.uplinkfile import format_uplink
from qemu_node.host.files.reading import read_or_empty
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.uplink import boot
from qemu_node.nodeos.uplink.settings import Found, find_settings, keep_copy, state_dir

_COLUMNS = (
    Column("NIC"), Column("MAC"), Column("PCI"), Column("Mbit/s"), Column("Link"), Column("Bond"),
)  # fmt: skip
_PENDING = "differ from what this boot uses: they take effect at the next boot"


@click.command(
    epilog="""\b
Examples:
  qemu-node os network
  qemu-node os network --json | jq -r .address
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_node
def network(paths: NodePaths, as_json: bool) -> None:
    """Show the node's NICs, its MAC address, and where their settings come from."""
    found, applied = _find(paths), boot.read_applied(paths)
    machine = boot.read_nics(paths.root, found.settings)
    bond = paths.root / "sys/class/net/bond0/bonding"
    is_pending = bool(applied.settings) and applied.settings != format_uplink(found.settings)
    problems = list(dict.fromkeys([*applied.problems, *found.problems]))
    facts = {
        "settings": found.origin,
        "pending": is_pending,
        "address": read_or_empty(paths.root / "sys/class/net/br0/address"),
        "mode": read_or_empty(bond / "mode").split(" ")[0],
        "primary": read_or_empty(bond / "primary"),
        "active": read_or_empty(bond / "active_slave"),
        "problems": problems,
    }
    nics = [
        {
            "name": nic.name,
            "mac": nic.mac,
            "pci": nic.pci,
            "speed_mbit": nic.speed_mbit or None,
            "has_link": read_or_empty(paths.root / f"sys/class/net/{nic.name}/carrier") == "1",
            "is_in_bond": (paths.root / f"sys/class/net/{nic.name}/bonding_slave").exists(),
        }
        for nic in machine.nics
    ]
    if as_json:
        print_json(facts | {"nics": nics})
        return
    state = f"; {_PENDING}" if is_pending else ""
    print_fields(
        [
            ("settings", (found.origin or "none: the defaults") + state),
            ("MAC of br0", str(facts["address"]) or "there is no br0"),
            ("bond0", str(facts["mode"]) or "there is no bond0"),
            ("primary", str(facts["primary"]) or "none"),
            ("active", str(facts["active"]) or "none"),
            *(("problem", problem) for problem in problems),
        ]
    )
    print_table(_COLUMNS, [[Cell(word) for word in _row(nic)] for nic in nics])


@click.command()
@pass_node
@click.pass_context
def network_write(ctx: click.Context, paths: NodePaths) -> None:
    """Write networkd's files; qemu-node-address.service calls this before networkd starts."""
    prepared = boot.prepare(paths)
    choice = prepared.choice
    names = " ".join(nic.name for nic in choice.members) or "none"
    click.echo(
        f"address {choice.mac or 'by machine id'}, primary {choice.primary or 'none'}, "
        f"NICs {names}, settings {prepared.origin or 'default'}"
    )
    _say_problems(prepared.problems)
    ctx.exit(EXIT_ERROR if prepared.problems else 0)


@click.command()
@pass_node
def network_keep(paths: NodePaths) -> None:
    """Copy [uplink] of node.toml to /oem; qemu-node-network-settings.service calls this."""
    settings = keep_copy(paths, _state_dir(paths))
    applied = boot.read_applied(paths)
    if settings is not None and applied.settings not in ("", format_uplink(settings)):
        click.echo(f"the settings of [uplink] in node.toml {_PENDING}")


def _find(paths: NodePaths) -> Found:
    return find_settings(paths, _state_dir(paths))


def _state_dir(paths: NodePaths) -> Path:
    return state_dir(paths, paths.mountinfo.read_text(errors="replace"))


def _say_problems(problems: Iterable[str]) -> None:
    for problem in problems:
        say(problem, err=True)


def _row(nic: Mapping[str, object]) -> list[str]:
    return [
        str(nic["name"]),
        str(nic["mac"]),
        str(nic["pci"]),
        str(nic["speed_mbit"] or "unknown"),
        "up" if nic["has_link"] else "down",
        "yes" if nic["is_in_bond"] else "no",
    ]
