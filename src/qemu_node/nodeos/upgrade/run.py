"""An upgrade from beginning to end: find the image, judge, install, check, say what is next.

Owns the order. Does not own any decision (`checks`), Elemental (`elemental`), what happens inside
it (`hooks`) nor the restart, which is the caller's.

Nothing before the switch touches what boots next, and whatever Elemental leaves, killed or failed,
is put in order afterwards: the same way as after a power cut.
"""

import asyncio
import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass

from qemu_node.config.node import NodeConfig
from qemu_node.errors import HostError, NodeError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.process.identity import read_stat
from qemu_node.nodeos.boot import read_boot
from qemu_node.nodeos.ledger.history import Event, note_event
from qemu_node.nodeos.ledger.refusals import forgive, read_refused
from qemu_node.nodeos.mounts import free_bytes, unmount, writable
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import Release, read_release
from qemu_node.nodeos.snapshots.apply import apply_plan
from qemu_node.nodeos.snapshots.clean import clean, system_lock, tidy_mounts
from qemu_node.nodeos.snapshots.facts import Facts, read_facts
from qemu_node.nodeos.snapshots.plan import make_plan
from qemu_node.nodeos.snapshots.settle import clear_flags, read_note
from qemu_node.nodeos.upgrade import checks
from qemu_node.nodeos.upgrade.checks import UpgradeFacts, Waiver
from qemu_node.nodeos.upgrade.elemental import (
    docker_config,
    environment,
    run_elemental,
    upgrade_argv,
)
from qemu_node.nodeos.upgrade.intent import Intent, announced
from qemu_node.nodeos.upgrade.source import (
    Target,
    choose_source,
    find_credential,
    find_target,
)

Tell = Callable[[str], None]


class UpgradeRefusedError(NodeError):
    """The image may not be installed; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeOptions:
    """What an operator asks for."""

    system: str | None = None
    waivers: frozenset[Waiver] = frozenset()
    recovery: bool = False
    bootloader: bool = False
    only_check: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeResult:
    """What an upgrade did."""

    target: Target
    is_installed: bool
    """Whether the image was installed now."""
    needs_reboot: bool
    """Whether the image runs only after a reboot."""


async def upgrade(
    paths: NodePaths, config: NodeConfig, options: UpgradeOptions, tell: Tell
) -> UpgradeResult:
    """Install the image that is asked for, unless it is there already.

    Raises:
        UpgradeRefusedError: it may not be installed; the message has all reasons.
        NodeError: it could not be found or installed; the next boot takes what it would have taken.
    """
    release = await asyncio.to_thread(read_release, paths)
    source = choose_source(options.system, config, release)
    tell(f"looking for {source.shown}")
    target = await find_target(source, config, paths)
    if target.created and target.tag != source.reference:
        tell(f"{source.reference} is {target.tag} of {target.created:%Y-%m-%d %H:%M}")
    # A registry that does not answer keeps nobody else from changing the system.
    async with system_lock(paths):
        snapshots = await asyncio.to_thread(read_facts, paths)
        facts = await asyncio.to_thread(gather, paths, target, release, snapshots)
        # Boot loader and recovery system are asked for by name.
        is_all = not options.recovery and not options.bootloader
        if is_all and checks.is_up_to_date(facts):
            return UpgradeResult(target=target, is_installed=False, needs_reboot=False)
        if is_all and checks.is_pending(facts):
            return UpgradeResult(target=target, is_installed=False, needs_reboot=True)
        reasons = checks.not_waived(checks.find_reasons(facts), options.waivers)
        if reasons:
            raise UpgradeRefusedError(
                "; ".join(reason.text for reason in reasons), hint=_hint(reasons)
            )
        if options.only_check:
            return UpgradeResult(target=target, is_installed=False, needs_reboot=True)
        if facts.refused is not None:
            # The operator has said --force: from now on the image is judged anew.
            await asyncio.to_thread(forgive, paths, [target.digest])
        await _install(paths, config, options, target, snapshots, tell)
    return UpgradeResult(target=target, is_installed=True, needs_reboot=True)


def _hint(reasons: list[checks.Reason]) -> str | None:
    hint = next((reason.hint for reason in reasons if reason.hint), "")
    waivers = {reason.waiver for reason in reasons}
    named = sorted(waiver.value for waiver in waivers if waiver is not None)
    if None not in waivers:
        hint = f"{hint}; {' '.join(named)} installs it all the same"
    return hint or None


def gather(paths: NodePaths, target: Target, release: Release, snapshots: Facts) -> UpgradeFacts:
    """Return what decides whether the image may be installed. Blocks.

    Raises:
        HostError: a file system cannot be looked at.
    """
    booted, active = snapshots.find(snapshots.booted), snapshots.find(snapshots.active)
    is_pending = active is not None and booted is not None and active.number != booted.number
    note = read_note(paths)
    created = _time(booted.record.created) if booted else None
    if created is None and release.epoch:
        created = datetime.datetime.fromtimestamp(release.epoch, datetime.UTC)
    refusals = {refusal.digest: refusal for refusal in read_refused(paths)}
    refused = refusals.get(target.digest)
    boot = read_boot(paths)
    return UpgradeFacts(
        mode=boot.mode,
        is_judged=note is None or note.is_judged,
        digest=target.digest,
        tag=target.tag,
        created=target.created,
        unpacked_bytes=target.unpacked_bytes,
        running_digest=booted.digest if booted else "",
        running_created=created,
        pending_digest=active.digest if is_pending and active else "",
        pending_created=_time(active.record.created) if is_pending and active else None,
        refused=None if refused is None else f"{refused.reason or 'no reason'} ({refused.at})",
        state_free_bytes=free_bytes(paths.state) if boot.is_installed else 0,
        oem_free_bytes=free_bytes(paths.oem) if boot.is_installed else 0,
        image_limit_bytes=_image_limit(paths),
        largest_bytes=max((s.used_bytes for s in snapshots.snapshots), default=0),
    )


def _time(text: str) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _image_limit(paths: NodePaths) -> int | None:
    """Return how large Elemental makes a snapshot's file system; None: to measure, or unknown."""
    import yaml

    try:
        raw = yaml.safe_load(paths.snapshotter_config.read_bytes())
    except (OSError, yaml.YAMLError, ValueError):
        return None
    settings = raw.get("snapshotter") if isinstance(raw, dict) else None
    config = settings.get("config") if isinstance(settings, dict) else None
    size_mib = config.get("size") if isinstance(config, dict) else None
    return size_mib << 20 if isinstance(size_mib, int) and size_mib > 0 else None


async def _install(
    paths: NodePaths,
    config: NodeConfig,
    options: UpgradeOptions,
    target: Target,
    before: Facts,
    tell: Tell,
) -> None:
    """Have Elemental install the image, and put in order what it leaves."""
    fields = read_stat(os.getpid())
    intent = Intent(
        pid=os.getpid(),
        start_time=int(fields[19]) if fields else 0,
        digest=target.digest,
        tag=target.tag,
        source=target.system,
        created=target.created.isoformat() if target.created else "",
        unpacked_bytes=target.unpacked_bytes,
        bootloader=options.bootloader,
    )
    credential = find_credential(config, target.source)
    # What an upgrade left that was killed with its command.
    await tidy_mounts(paths)
    tell(f"installing {target.name}")
    async with writable(paths.state):
        try:
            with (
                announced(paths, intent),
                docker_config(paths, target.source.host, credential) as docker,
            ):
                await run_elemental(
                    upgrade_argv(paths, target.system, recovery=options.recovery),
                    env=environment(config.images, docker),
                    log_path=paths.upgrade_log,
                    tell=tell,
                )
        except BaseException as exc:
            await finish(_undo(paths, before, exc, target))
            raise
    await clean(paths)
    after = await asyncio.to_thread(read_facts, paths)
    new = after.find(after.active)
    if new is None or new.number == after.booted or new.digest != target.digest:
        raise HostError(
            "Elemental ended well, but the new image is not the one that boots next",
            hint="`qemu-node os status` shows what there is",
        )
    await asyncio.to_thread(
        note_event,
        paths,
        Event.INSTALLED,
        snapshot=new.number,
        tag=new.record.tag,
        digest=target.digest,
        note=target.source.shown,
    )


async def _undo(paths: NodePaths, before: Facts, error: BaseException, target: Target) -> None:
    """Have the next boot take what it would have taken, and remove what the upgrade left."""
    await unmount(paths.run / "new")
    await tidy_mounts(paths)
    facts = await asyncio.to_thread(read_facts, paths)
    wanted = before.active if before.active is not None else before.booted
    new = None if facts.active == wanted else facts.active
    await apply_plan(paths, facts, make_plan(facts, active=wanted, failed=new))
    await clean(paths)
    # Elemental has set the flag for an image that is gone.
    booted = facts.find(facts.booted)
    if booted is not None and booted.is_confirmed and booted.number == wanted:
        await asyncio.to_thread(clear_flags, paths)
    words = str(error) or type(error).__name__
    await asyncio.to_thread(
        note_event, paths, Event.FAILED, tag=target.tag, digest=target.digest, note=words
    )
