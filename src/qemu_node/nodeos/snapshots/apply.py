"""Making a plan true, in an order in which a power cut at any point leaves a node that boots.

Owns every change of the link, state.yaml, GRUB's list of snapshots and the snapshots' directories.
Decides nothing: `plan`.

The link first: from then on the right image is booted. Then state.yaml and GRUB's list, so that
neither names what is gone, then the directories. Each step is whole or not done, and to do it again
is harmless.
"""

import asyncio
import contextlib
import shutil
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import host_error, sync_directory
from qemu_node.nodeos.mounts import writable
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.snapshots import grubenv, statefile
from qemu_node.nodeos.snapshots.facts import IMAGE, REMOVED_PREFIX, Facts
from qemu_node.nodeos.snapshots.plan import Plan
from qemu_node.nodeos.snapshots.statefile import StateEntry

_NEW_LINK = ".active.new"


async def apply_plan(paths: NodePaths, facts: Facts, plan: Plan) -> None:
    """Make `plan` true.

    Raises:
        HostError: a step was refused; those before it are done, and it may be repeated.
    """
    async with writable(paths.state):
        if plan.active is not None:
            await asyncio.to_thread(set_link, paths, plan.active)
        await asyncio.to_thread(_write_state, paths, facts, plan)
        await write_boot_list(paths, plan)
        await asyncio.to_thread(_remove, paths, facts, plan)


def set_link(paths: NodePaths, number: int) -> None:
    """Make `active` lead to the snapshot `number`, at once and for good.

    Raises:
        HostError: it cannot be changed; it is as it was.
    """
    target = Path(str(number)) / IMAGE
    with contextlib.suppress(OSError):
        if paths.active.readlink() == target:
            return
    new = paths.snapshots / _NEW_LINK
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.replace(paths.active)
        sync_directory(paths.snapshots)
    except OSError as exc:
        raise host_error("change", paths.active, exc) from exc


async def write_boot_list(paths: NodePaths, plan: Plan) -> None:
    """Tell GRUB which snapshots there are.

    Raises:
        HostError: the ESP cannot be written.
    """
    wanted = {"passive_snaps": plan.passive_snaps, "default_fallback": plan.default_fallback}
    have = grubenv.read(paths.grub_oem_env)
    if all(have.get(name) == value for name, value in wanted.items()):
        return
    if not paths.efi.is_dir():
        raise HostError(f"{paths.efi} is not there", hint="GRUB's list of snapshots is as it was")
    async with writable(paths.efi):
        await asyncio.to_thread(grubenv.update_in_place, paths.grub_oem_env, wanted)


def _write_state(paths: NodePaths, facts: Facts, plan: Plan) -> None:
    """Make state.yaml name the snapshots that stay.

    A damaged one is put aside: Elemental goes on without, and writes a new one at the next upgrade.
    """
    if facts.is_state_damaged:
        aside = paths.state_yaml.with_suffix(".yaml.damaged")
        try:
            paths.state_yaml.replace(aside)
        except OSError as exc:
            raise host_error("put aside", paths.state_yaml, exc) from exc
        return
    if facts.document is None:
        return
    gone = {removal.number for removal in plan.removals}
    there = {snapshot.number for snapshot in facts.snapshots} - gone
    missing = {
        snapshot.number: StateEntry(
            digest=snapshot.record.digest,
            source=snapshot.record.source,
            date=snapshot.record.installed_at,
        )
        for snapshot in facts.snapshots
        if snapshot.number in there and snapshot.entry is None
    }
    known = statefile.entries(facts.document)
    document = statefile.edited(
        facts.document,
        active=plan.active,
        remove=[number for number in known if number not in there],
        add=missing,
    )
    if document != facts.document:
        statefile.write_state(paths.state_yaml, document)


def _remove(paths: NodePaths, facts: Facts, plan: Plan) -> None:
    """Remove directories. First by their name, which counts at once, then their content."""
    doomed = [paths.snapshots / name for name in facts.litter]
    for removal in plan.removals:
        directory = paths.snapshots / str(removal.number)
        renamed = paths.snapshots / f"{REMOVED_PREFIX}{removal.number}"
        try:
            if renamed.exists():
                shutil.rmtree(renamed)
            directory.replace(renamed)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise host_error("remove", directory, exc) from exc
        doomed.append(renamed)
    for directory in doomed:
        try:
            shutil.rmtree(directory)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise host_error("remove", directory, exc) from exc
