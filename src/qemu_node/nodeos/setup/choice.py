"""Which disks an installation takes, and what it must not erase. Pure.

Owns the decision and its words. Whoever asks for a disk is refused unless what is lost is nothing,
or was agreed to. Does not own what is on the disks (`disks`).
"""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qemu_node.errors import ConfigError, NodeError
from qemu_node.nodeos.setup.disks import (
    DATA_LABEL,
    LIVE_LABEL,
    NODE_LABELS,
    SEED_LABEL,
    Disk,
)
from qemu_node.nodeos.setup.seed import DataPattern, DiskPattern
from qemu_node.units import GIB, format_size

SYSTEM_MIN_BYTES = 17 * GIB
"""The partitions of the system (osimage: etc/elemental/config.yaml), with some to spare."""


class RefusedError(NodeError):
    """The installation was refused before anything was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The disks of an installation."""

    system: Disk
    data: Disk | None = None
    """The disk of /data if it is another one; it is formatted if `formats_data`."""
    formats_data: bool = False
    data_on_system: bool = False
    """/data becomes a partition of the system's disk."""


def matches(pattern: DiskPattern, disk: Disk) -> bool:
    """Tell whether `disk` is as `pattern` says."""
    names = (disk.path, *disk.links)
    return (
        _is_like(pattern.path, names)
        and _is_like(pattern.model, (disk.model,))
        and _is_like(pattern.serial, (disk.serial,))
        and _is_like(pattern.wwn, (disk.wwn,))
        and _is_like(pattern.transport, (disk.transport,))
        and pattern.min_bytes <= disk.size_bytes <= pattern.max_bytes
        and pattern.rotational in (None, disk.is_rotational)
    )


def _is_like(glob: str, values: Iterable[str]) -> bool:
    if not glob:
        return True
    return any(fnmatch.fnmatchcase(value.casefold(), glob.casefold()) for value in values)


def find_disk(pattern: DiskPattern, disks: Sequence[Disk], *, purpose: str) -> Disk:
    """Return the disk that `pattern` means. The medium and the stick with the seed never match.

    Raises:
        RefusedError: none matches, or several do and the pattern does not say which.
    """
    usable = [disk for disk in disks if not is_medium(disk) and not disk.is_read_only]
    found = [disk for disk in usable if matches(pattern, disk)]
    if not found:
        seen = "; ".join(disk.describe() for disk in usable) or "none"
        raise RefusedError(
            f"no disk matches the pattern of {purpose}", hint=f"the disks to choose from: {seen}"
        )
    match pattern.choose:
        case "smallest":
            return min(found, key=lambda disk: (disk.size_bytes, disk.path))
        case "largest":
            return max(found, key=lambda disk: (disk.size_bytes, disk.path))
        case _:
            if len(found) == 1:
                return found[0]
    raise RefusedError(
        f"{len(found)} disks match the pattern of {purpose}: "
        + "; ".join(disk.describe() for disk in found),
        hint='give a pattern that only one of them matches, or choose = "smallest"',
    )


def named_disk(path: str, real_path: str, disks: Sequence[Disk]) -> Disk:
    """Return the disk that a person has named by `path`, which leads to `real_path`.

    Raises:
        RefusedError: it is no disk of this machine.
    """
    for disk in disks:
        if real_path == disk.path:
            return disk
        if any(volume.path == real_path for volume in disk.volumes):
            raise RefusedError(
                f"{path} is a part of the disk {disk.path}", hint=f"name the disk: {disk.path}"
            )
    seen = "; ".join(disk.describe() for disk in disks if not is_medium(disk)) or "none"
    raise RefusedError(f"{path} is no disk of this machine", hint=f"the disks here: {seen}")


def is_medium(disk: Disk) -> bool:
    """Tell whether the live system or a seed is on `disk`."""
    return bool(disk.labels & {LIVE_LABEL, SEED_LABEL}) or any(
        mount.startswith("/run/initramfs/live") for mount in disk.mounts
    )


def choose_disks(
    system: Disk,
    disks: Sequence[Disk],
    *,
    wipe: bool,
    data: Disk | None = None,
    data_pattern: DataPattern | None = None,
    how: str,
) -> Choice:
    """Return what is done to which disk.

    Args:
        system: The disk of the system.
        disks: All disks.
        wipe: Whether `system` may be erased if it is not empty.
        data: The disk of /data.
        data_pattern: What was said about /data.
        how: What to do if a disk must be erased, with `{disk}`.

    Raises:
        RefusedError: something would be lost that nobody agreed to, or two disks have the labels of
            a node.
    """
    _require_usable(system)
    _require_room(system)
    _require_empty(system, wipe=wipe, how=how)
    others = [disk for disk in disks if disk.path != system.path]
    for disk in others:
        _refuse_other_node(disk)
    with_data = [disk for disk in others if DATA_LABEL in disk.labels]
    if data_pattern is not None and data_pattern.same_disk:
        if with_data:
            raise _two_data(with_data, "the system's disk")
        return Choice(system=system, data_on_system=True)
    if data is None:
        if len(with_data) > 1:
            raise RefusedError(
                "several disks have a file system DATA: "
                + "; ".join(disk.describe() for disk in with_data),
                hint="say which one is /data: --data DISK, or [data] in the seed",
            )
        return Choice(system=system, data=with_data[0] if with_data else None)
    if data.path == system.path:
        raise RefusedError(
            f"{data.path} is the system's disk", hint="give --data-here, or another disk"
        )
    strangers = [disk for disk in with_data if disk.path != data.path]
    if strangers:
        raise _two_data(strangers, data.path)
    keeps = DATA_LABEL in data.labels and not (data_pattern is not None and data_pattern.wipe)
    if keeps:
        _require_single_data(data)
        return Choice(system=system, data=data)
    _require_usable(data)
    _require_empty(data, wipe=data_pattern is not None and data_pattern.wipe, how=how)
    return Choice(system=system, data=data, formats_data=True)


def _require_usable(disk: Disk) -> None:
    if is_medium(disk):
        raise RefusedError(
            f"{disk.path} is the medium of the live system or of the seed", hint="name another disk"
        )
    if disk.is_read_only:
        raise RefusedError(f"{disk.path} is read only", hint="`lsblk` lists the disks")
    if disk.mounts:
        where = ", ".join(disk.mounts)
        hint = "`swapoff --all`" if disk.mounts == ("[SWAP]",) else f"`umount {disk.mounts[-1]}`"
        raise RefusedError(f"{disk.path} is in use: {where}", hint=f"end that first: {hint}")


def _require_room(disk: Disk) -> None:
    if disk.size_bytes < SYSTEM_MIN_BYTES:
        raise RefusedError(
            f"{disk.describe()} is too small: a node needs {format_size(SYSTEM_MIN_BYTES)}",
            hint="`lsblk` lists the disks",
        )


def _require_empty(disk: Disk, *, wipe: bool, how: str) -> None:
    if wipe or not disk.volumes:
        return
    node = " an installed node:" if NODE_LABELS & disk.labels else ""
    content = ", ".join(volume.describe() for volume in disk.volumes)
    raise RefusedError(
        f"{disk.path} is not empty, and all on it would be lost:{node} {content}",
        hint=how.format(disk=disk.path),
    )


def _refuse_other_node(disk: Disk) -> None:
    found = [volume for volume in disk.volumes if volume.label in NODE_LABELS]
    if found and not is_medium(disk):
        paths = " ".join(volume.path for volume in found)
        raise RefusedError(
            f"{disk.path} holds another installed node, and the boot loader knows partitions by "
            f"their labels: {', '.join(volume.describe() for volume in found)}",
            hint=f"detach that disk, or erase these partitions: `wipefs --all {paths}`",
        )


def _two_data(strangers: Sequence[Disk], wanted: str) -> RefusedError:
    paths = [v.path for disk in strangers for v in disk.volumes if v.label == DATA_LABEL]
    return RefusedError(
        f"/data would be on {wanted}, and there is a file system DATA on "
        + "; ".join(disk.describe() for disk in strangers),
        hint=f"detach it, or give it another label: `e2label {paths[0]} OLDDATA`",
    )


def _require_single_data(disk: Disk) -> None:
    found = [volume.path for volume in disk.volumes if volume.label == DATA_LABEL]
    if len(found) > 1:
        raise RefusedError(f"{' and '.join(found)} are both labelled DATA")


def disk_key(disk: Disk) -> str:
    """Return by what a disk is known again: a link in by-id or by-path; empty if it has none.

    A copy of a disk has the same labels and UUIDs, but another link; /dev/sda changes.
    """
    for directory in ("/by-id/wwn-", "/by-id/nvme-eui.", "/by-id/", "/by-path/"):
        for link in disk.links:
            if directory in link:
                return link
    return ""


def require_some_pattern(pattern: DiskPattern) -> None:
    """Raise if a seed does not say which disk it means.

    Raises:
        ConfigError: it does not.
    """
    if pattern.is_empty and pattern.choose == "only":
        raise ConfigError(
            "the seed does not say which disk it is for",
            hint='write for instance `[disk]` and `choose = "smallest"`',
        )
