"""`qemu-node os status` and `history`: which system runs, what is kept, and what happened to it.

Owns the words (pure). Does not own the facts (`nodeos`).
"""

from collections.abc import Sequence

import click

from qemu_node.cli.main import App, pass_app
from qemu_node.cli.nodeos.group import pass_node
from qemu_node.cli.terminal import (
    Cell,
    Column,
    Row,
    print_fields,
    print_json,
    print_table,
    short_size,
)
from qemu_node.errors import NodeError
from qemu_node.nodeos.boot import BootMode
from qemu_node.nodeos.ledger.history import read_history
from qemu_node.nodeos.mounts import free_bytes
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import Release, read_release
from qemu_node.nodeos.snapshots.facts import Facts, Snapshot, read_facts
from qemu_node.nodeos.snapshots.plan import make_plan
from qemu_node.nodeos.snapshots.settle import read_note
from qemu_node.nodeos.snapshots.verdict import NEXT_ENTRY
from qemu_node.units import format_size

_COLUMNS = (
    Column("Snapshot", is_number=True),
    Column("Tag"),
    Column("State"),
    Column("Size", is_number=True),
    Column("Installed", droppable=1),
    Column("Digest", droppable=2),
)
_HISTORY = (
    Column("Time"),
    Column("Event"),
    Column("Snapshot", is_number=True),
    Column("Tag"),
    Column("Note"),
)
_DIGEST_SHOWN_CHARS = 19


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
@pass_node
def status(paths: NodePaths, app: App, as_json: bool) -> None:
    """Show the running system, the snapshots that are kept, and what boots next."""
    release, facts = read_release(paths), read_facts(paths)
    note = read_note(paths)
    is_judged = note is None or note.is_judged
    if as_json:
        print_json(_to_json(release, facts, is_judged=is_judged))
        return
    lines = _fields(release, facts, is_judged=is_judged)
    if paths.snapshots.is_dir():
        lines.append(("free", f"{format_size(free_bytes(paths.state))} for the next upgrade"))
    if release.is_node_os:
        lines += _settings(app, release)
    print_fields(lines)
    if facts.snapshots:
        click.echo()
        print_table(_COLUMNS, rows(facts))
    for warning in warnings(facts):
        click.echo(f"warning: {warning}", err=True)


def _settings(app: App, release: Release) -> list[tuple[str, str]]:
    try:
        settings = app.load_config().os
    except NodeError as exc:
        return [("node.toml", str(exc))]
    automatic = f"in the window {settings.window}" if settings.automatic else "no"
    source = settings.source or release.source or "none: set os.source in node.toml"
    return [("upgrades from", source), ("automatic", automatic)]


def _fields(release: Release, facts: Facts, *, is_judged: bool) -> list[tuple[str, str]]:
    tag = release.tag or "none: this is no image of the node's operating system"
    booted = "no snapshot" if facts.booted is None else f"snapshot {facts.booted}"
    lines = [
        ("system", release.pretty_name or "unknown"),
        ("tag", tag),
        ("booted", f"{booted}, {facts.mode}"),
        ("next boot", _next(facts)),
    ]
    if not is_judged:
        lines.append(("health check", "not passed yet: until then a restart may go back"))
    if release.local_binaries:
        lines.append(("local binaries", ", ".join(release.local_binaries)))
    return lines


def _next(facts: Facts) -> str:
    entry = facts.grub.get(NEXT_ENTRY)
    if entry:
        return f"{entry}, once"
    snapshot = facts.find(facts.active)
    if snapshot is None:
        return "unknown"
    name = snapshot.record.tag or f"snapshot {snapshot.number}"
    if snapshot.number == facts.booted:
        return f"{name}, as now"
    return f"{name} (snapshot {snapshot.number})"


def states(snapshot: Snapshot, facts: Facts) -> list[str]:
    """Return in words what a snapshot is: pure."""
    words = {
        "running": snapshot.number == facts.booted,
        "next": snapshot.number == facts.active != facts.booted,
        "incomplete": not snapshot.is_whole,
        "refused": bool(snapshot.digest) and snapshot.digest in facts.refused,
        "good": snapshot.is_confirmed,
        "never confirmed": not snapshot.is_confirmed and snapshot.is_whole,
    }
    return [word for word, is_so in words.items() if is_so]


def rows(facts: Facts) -> list[Row]:
    """Return the table of snapshots, the newest first: pure."""
    return [
        [
            Cell(str(snapshot.number)),
            Cell(snapshot.record.tag),
            Cell(", ".join(states(snapshot, facts))),
            Cell(short_size(snapshot.used_bytes)),
            Cell(snapshot.record.installed_at or (snapshot.entry.date if snapshot.entry else "")),
            Cell(snapshot.digest[:_DIGEST_SHOWN_CHARS]),
        ]
        for snapshot in reversed(facts.snapshots)
    ]


def warnings(facts: Facts) -> list[str]:
    """Return what is not in order: pure."""
    if facts.mode not in (BootMode.ACTIVE, BootMode.PASSIVE):
        return []
    plan = make_plan(facts)
    found = [
        f"snapshot {removal.number} is of no use: {removal.reason}; the next upgrade removes it, "
        "or `qemu-node os clean`"
        for removal in plan.removals
    ]
    if facts.mode is BootMode.PASSIVE and facts.booted != facts.active:
        found.append("an older system runs; `qemu-node os rollback` makes it stay")
    if facts.is_state_damaged:
        found.append("state.yaml is damaged; the next upgrade writes a new one")
    unknown = [n for n in facts.passives if n not in {s.number for s in facts.snapshots}]
    if unknown:
        names = ", ".join(map(str, unknown))
        found.append(f"GRUB lists snapshots that are gone: {names}; `qemu-node os clean`")
    return found


def _to_json(release: Release, facts: Facts, *, is_judged: bool) -> dict[str, object]:
    return {
        "tag": release.tag,
        "version": release.version,
        "mode": facts.mode,
        "snapshot": facts.booted,
        "active": facts.active,
        "passives": facts.passives,
        "is_judged": is_judged,
        "refused": sorted(facts.refused),
        "warnings": warnings(facts),
        "snapshots": [_snapshot_json(snapshot, facts) for snapshot in facts.snapshots],
    }


def _snapshot_json(snapshot: Snapshot, facts: Facts) -> dict[str, object]:
    words: Sequence[str] = states(snapshot, facts)
    return {
        "snapshot": snapshot.number,
        "tag": snapshot.record.tag,
        "digest": snapshot.digest,
        "states": words,
        "used_bytes": snapshot.used_bytes,
        "installed_at": snapshot.record.installed_at,
        "confirmed_at": snapshot.record.confirmed_at,
    }


@click.command()
@click.option("-n", "--lines", type=click.IntRange(min=1), default=30, show_default=True,
              help="How many of the newest events.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with digests.")
@pass_node
def history(paths: NodePaths, lines: int, as_json: bool) -> None:
    """List what happened to the system, the oldest first."""
    events = read_history(paths)[-lines:]
    if as_json:
        print_json(events)
    elif events:
        print_table(
            _HISTORY,
            [
                [
                    Cell(event.at),
                    Cell(event.event),
                    Cell("" if event.snapshot is None else str(event.snapshot)),
                    Cell(event.tag),
                    Cell(event.note),
                ]
                for event in events
            ],
        )
    else:
        click.echo("nothing has happened to this system yet", err=True)
