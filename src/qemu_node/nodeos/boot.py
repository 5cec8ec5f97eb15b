"""How this system was booted: the mode, and the image that is `/`.

Owns these two facts. Does not own the snapshots (`snapshots`) nor what is booted next.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qemu_node.host.files.mountinfo import parse_mounts
from qemu_node.host.files.reading import read_or_empty
from qemu_node.nodeos.paths import NodePaths

_SNAPSHOT = re.compile(r"\.snapshots/(?P<number>[0-9]{1,9})/snapshot\.img(?: \(deleted\))?$")


class BootMode(StrEnum):
    """What GRUB was told to boot; Elemental's words, and `other` for a system that has none."""

    ACTIVE = "active"
    PASSIVE = "passive"
    RECOVERY = "recovery"
    LIVE = "live"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """How this system was booted."""

    mode: BootMode
    snapshot: int | None
    """The number of the snapshot that is `/`; None for a system that is no snapshot."""
    boot_id: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether this is an installed system, no live or recovery system."""
        return self.mode in (BootMode.ACTIVE, BootMode.PASSIVE)


def read_boot(paths: NodePaths) -> Boot:
    """Return how the running system was booted."""
    # `live` first: an image that is booted as a live system has no other mode.
    named = (BootMode.LIVE, BootMode.RECOVERY, BootMode.PASSIVE, BootMode.ACTIVE)
    mode = next((mode for mode in named if paths.mode(mode).exists()), BootMode.OTHER)
    return Boot(mode=mode, snapshot=_booted_snapshot(paths), boot_id=read_or_empty(paths.boot_id))


def _booted_snapshot(paths: NodePaths) -> int | None:
    """Return the snapshot whose image is the loop device of `/`.

    Not by the link `active`, which an upgrade has changed already, nor by the command line, which
    names no image in active mode.
    """
    device = root_device(read_or_empty(paths.mountinfo))
    return None if device is None else snapshot_of(read_or_empty(paths.backing_file(device)))


def root_device(mountinfo: str) -> str | None:
    """Return `major:minor` of what is mounted on `/`, by the text of mountinfo (proc(5)): pure."""
    devices = [mount.device for mount in parse_mounts(mountinfo) if mount.point == Path("/")]
    return devices[-1] if devices else None


def snapshot_of(backing_file: str) -> int | None:
    """Return the number of the snapshot that is behind a loop device: pure."""
    match = _SNAPSHOT.search(backing_file)
    return int(match["number"]) if match else None
