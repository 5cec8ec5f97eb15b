"""What is done inside an upgrade by Elemental, whoever has called it.

Elemental runs a stage of its hooks before it makes a snapshot (`before-upgrade`), when the files of
the new image are there (`after-upgrade`), and after it has switched to it (`post-upgrade`). If one
fails, the upgrade fails (`strict: true`), and Elemental removes the new snapshot, also when it has
switched to it already. So the last hook leads the link back before it fails.

Owns these three. Does not own what `qemu-node os upgrade` does around Elemental (`run`).
"""

import asyncio
from pathlib import Path

import msgspec

from qemu_node.errors import HostError, NodeError
from qemu_node.host.files.atomic import host_error
from qemu_node.host.files.reading import read_or_empty
from qemu_node.host.process.command import run
from qemu_node.nodeos.boot import read_boot
from qemu_node.nodeos.bootloader import replace_boot_loader
from qemu_node.nodeos.ledger.lines import now
from qemu_node.nodeos.mounts import free_bytes, is_read_only, remount, unmount, writable
from qemu_node.nodeos.others import require_no_other
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import parse_release
from qemu_node.nodeos.snapshots.apply import set_link, write_boot_list
from qemu_node.nodeos.snapshots.clean import clean
from qemu_node.nodeos.snapshots.facts import IMAGE, WORK_DIR, read_facts
from qemu_node.nodeos.snapshots.plan import before_switch, make_plan
from qemu_node.nodeos.snapshots.record import SnapshotRecord, read_record, write_record
from qemu_node.nodeos.upgrade import verify
from qemu_node.nodeos.upgrade.checks import peak_bytes
from qemu_node.nodeos.upgrade.intent import read_intent
from qemu_node.units import format_size

HOOKS = ("before-upgrade", "after-upgrade", "post-upgrade")

_MOUNT_TIMEOUT_S = 60.0


async def run_hook(paths: NodePaths, name: str) -> None:
    """Do what belongs to the stage `name`. In a live or recovery system, nothing.

    Raises:
        NodeError: the upgrade must not go on.
    """
    if not read_boot(paths).is_installed:
        return
    match name:
        case "before-upgrade":
            await before_upgrade(paths)
        case "after-upgrade":
            await after_upgrade(paths)
        case "post-upgrade":
            await post_upgrade(paths)
        case _:
            raise NodeError(f"there is no hook {name!r}", hint=f"one of {', '.join(HOOKS)}")


async def before_upgrade(paths: NodePaths) -> None:
    """Make room and order before there is a new snapshot.

    The state partition stays writable: Elemental mounts all others anew, but not this one. The ESP
    gets each change at once, in the order in which they are made: it has no journal, and before the
    switch GRUB must have what it needs to go back.

    Raises:
        HostError: there is not enough room, a file system cannot be written, or another Elemental
            works.
    """
    await asyncio.to_thread(require_no_other, paths)
    if is_read_only(paths.state):
        await remount(paths.state, "rw")
    if await asyncio.to_thread(paths.efi.is_mount):
        await remount(paths.efi, "rw,sync")
    await clean(paths)
    _listing_path(paths).unlink(missing_ok=True)
    intent = read_intent(paths)
    facts = await asyncio.to_thread(read_facts, paths)
    largest = max((snapshot.used_bytes for snapshot in facts.snapshots), default=0)
    needed = peak_bytes(intent.unpacked_bytes if intent else None, largest)
    free = free_bytes(paths.state)
    if free < needed:
        raise HostError(
            f"the state partition has {format_size(free)} free, an upgrade needs "
            f"{format_size(needed)}",
            hint="`qemu-node os status` lists what is kept",
        )


async def after_upgrade(paths: NodePaths) -> None:
    """Note what the new image holds, and have GRUB know the running system before the switch.

    Elemental calls it twice: for the running system's hooks and for those of the new image.

    Raises:
        HostError: a file cannot be read or written.
    """
    directory = _unfinished(paths)
    if read_record(directory) is not None and _listing_path(paths).exists():
        return
    tree = directory / WORK_DIR
    listing = await asyncio.to_thread(verify.list_tree, tree)
    await asyncio.to_thread(verify.write_listing, _listing_path(paths), listing)
    await asyncio.to_thread(write_record, directory, _record(paths, tree))
    facts = await asyncio.to_thread(read_facts, paths)
    await asyncio.to_thread(_remember_active, paths, facts.active)
    await write_boot_list(paths, before_switch(facts))


def _record(paths: NodePaths, tree: Path) -> SnapshotRecord:
    """Return what is known of the image whose files are in `tree`."""
    places = (tree / "etc/os-release", tree / "usr/lib/os-release")
    release = parse_release(next(filter(None, map(read_or_empty, places)), ""))
    intent = read_intent(paths)
    record = SnapshotRecord(tag=release.tag, installed_at=now())
    if intent is None:
        return record
    return msgspec.structs.replace(
        record, digest=intent.digest, source=intent.source, created=intent.created
    )


def _unfinished(paths: NodePaths) -> Path:
    """Return the directory of the snapshot that is being made.

    Raises:
        HostError: there is none.
    """
    found = [path.parent for path in paths.snapshots.glob(f"*/{WORK_DIR}")]
    numbered = [path for path in found if path.name.isdecimal()]
    if not numbered:
        raise HostError(f"there is no unfinished snapshot in {paths.snapshots}")
    return max(numbered, key=lambda path: int(path.name))


def _listing_path(paths: NodePaths) -> Path:
    return paths.run / "tree.msgpack"


def _remember_active(paths: NodePaths, active: int | None) -> None:
    try:
        (paths.run / "active-before").write_text(str(active or ""))
    except OSError as exc:
        raise host_error("write", paths.run, exc) from exc


def _active_before(paths: NodePaths) -> int | None:
    text = read_or_empty(paths.run / "active-before")
    return int(text) if text.isdecimal() else None


async def post_upgrade(paths: NodePaths) -> None:
    """Read the new image back from the disk, and give GRUB its list; or go back to what was.

    With `--bootloader` the ESP gets the image's boot loader, too.

    Raises:
        NodeError: the image is not what was downloaded, or something else failed; the next boot
            takes the system that it would have taken before.
    """
    facts = await asyncio.to_thread(read_facts, paths)
    try:
        if facts.active is None:
            raise HostError("Elemental has made no new snapshot the active one")
        await _take_image(paths, facts.active)
        # Elemental lists every directory, the newest first, whatever is known of it.
        await write_boot_list(paths, make_plan(facts))
    except NodeError:
        before = _active_before(paths) or facts.booted
        if before is not None and before != facts.active:
            await asyncio.to_thread(set_link, paths, before)
        raise
    finally:
        _listing_path(paths).unlink(missing_ok=True)


async def _take_image(paths: NodePaths, number: int) -> None:
    """Check a snapshot's image; then give the ESP its boot loader, if that is wanted."""
    listing = await asyncio.to_thread(verify.read_listing, _listing_path(paths))
    if listing is None:
        raise HostError("nobody has noted what the new image holds")
    image = paths.snapshots / str(number) / IMAGE
    await asyncio.to_thread(verify.drop_from_cache, image)
    place = paths.run / "new"
    await asyncio.to_thread(place.mkdir, parents=True, exist_ok=True)
    await run(
        ["mount", "-o", "ro,loop", str(image), str(place)],
        timeout_s=_MOUNT_TIMEOUT_S,
    )
    try:
        wrong = await asyncio.to_thread(verify.differences, listing, place)
        if wrong:
            raise HostError(
                f"the new image is damaged on the disk: {verify.describe(wrong)}",
                hint="the disk may fail: `smartctl -a`, `dmesg`; the running system is as it was",
            )
        intent = read_intent(paths)
        if intent is not None and intent.bootloader:
            async with writable(paths.efi):
                await asyncio.to_thread(replace_boot_loader, place, paths.efi)
    finally:
        await unmount(place)
