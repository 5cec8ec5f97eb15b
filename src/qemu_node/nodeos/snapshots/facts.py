"""Finding out which snapshots there are, and what GRUB is told about them.

Owns reading; judges only whether an image is whole. Changes nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qemu_node.nodeos.boot import BootMode, read_boot
from qemu_node.nodeos.ledger.refusals import read_refused
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.snapshots import grubenv, statefile
from qemu_node.nodeos.snapshots.record import SnapshotRecord, read_record
from qemu_node.nodeos.snapshots.statefile import Document, StateEntry, StateFileError

IMAGE = "snapshot.img"
WORK_DIR = "snapshot.workDir"
REMOVED_PREFIX = "removed-"
"""A snapshot that is being removed. Elemental counts only names that are numbers."""

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_LINK = re.compile(r"(?:\./)?(?P<number>[1-9][0-9]{0,8})/snapshot\.img")

# The superblock of ext2, ext3, ext4 (Linux, Documentation/filesystems/ext4/super.rst).
_SUPERBLOCK_AT = 1024
_SUPERBLOCK_BYTES = 1024
_EXT_MAGIC = 0xEF53


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An image of the system on the state partition."""

    number: int
    is_whole: bool
    """Whether its installation was completed and the file is as long as its file system."""
    used_bytes: int = 0
    record: SnapshotRecord = field(default_factory=SnapshotRecord)
    entry: StateEntry | None = None
    """What Elemental knows of it; None if it knows nothing."""

    @property
    def digest(self) -> str:
        """The digest of the image it was made of; empty if nobody noted it."""
        return self.record.digest or (self.entry.digest if self.entry else "")

    @property
    def is_confirmed(self) -> bool:
        """Whether it has passed the health check."""
        return self.record.is_confirmed


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that decides about snapshots."""

    mode: BootMode
    booted: int | None
    snapshots: tuple[Snapshot, ...]
    """By number."""
    active: int | None
    """Where the link `active` leads, whether there is an image or not; None if there is no link."""
    document: Document | None = None
    """state.yaml; None if it is missing or damaged."""
    is_state_damaged: bool = False
    grub: Mapping[str, str] = field(default_factory=dict)
    """GRUB's variables on /oem."""
    boot_loader: Mapping[str, str] = field(default_factory=dict)
    """GRUB's variables on the ESP."""
    refused: frozenset[str] = frozenset()
    """Digests of images that are refused."""
    litter: tuple[str, ...] = ()
    """Names of directories whose removal was interrupted."""

    def find(self, number: int | None) -> Snapshot | None:
        """Return the snapshot of a number."""
        return next((found for found in self.snapshots if found.number == number), None)

    @property
    def passives(self) -> tuple[int, ...]:
        """The snapshots that GRUB tries after the active one, in its order."""
        words = self.boot_loader.get("passive_snaps", "").split()
        return tuple(int(word) for word in words if _NUMBER.fullmatch(word))


def read_facts(paths: NodePaths) -> Facts:
    """Return the facts of this node.

    Raises:
        HostError: the state partition or GRUB's variables cannot be read.
    """
    boot = read_boot(paths)
    document, is_damaged = None, False
    try:
        document = statefile.read_state(paths.state_yaml)
    except StateFileError:
        is_damaged = True
    known = statefile.entries(document)
    try:
        names = sorted(entry.name for entry in paths.snapshots.iterdir())
    except FileNotFoundError:
        names = []
    numbers = sorted(int(name) for name in names if _NUMBER.fullmatch(name))
    return Facts(
        mode=boot.mode,
        booted=boot.snapshot,
        snapshots=tuple(
            _snapshot(paths.snapshots / str(number), number, known.get(number))
            for number in numbers
        ),
        active=_link_target(paths.active),
        document=document,
        is_state_damaged=is_damaged,
        grub=grubenv.read(paths.grubenv),
        boot_loader=grubenv.read(paths.grub_oem_env),
        refused=frozenset(refusal.digest for refusal in read_refused(paths)),
        litter=tuple(name for name in names if name.startswith(REMOVED_PREFIX)),
    )


def _snapshot(directory: Path, number: int, entry: StateEntry | None) -> Snapshot:
    image = directory / IMAGE
    try:
        used_bytes = image.stat().st_blocks * 512
    except OSError:
        used_bytes = 0
    return Snapshot(
        number=number,
        is_whole=not (directory / WORK_DIR).exists() and is_whole_image(image),
        used_bytes=used_bytes,
        record=read_record(directory) or SnapshotRecord(),
        entry=entry,
    )


def _link_target(link: Path) -> int | None:
    try:
        match = _LINK.fullmatch(str(link.readlink()))
    except OSError:
        return None
    return int(match["number"]) if match else None


def is_whole_image(path: Path) -> bool:
    """Tell whether `path` holds as many bytes as the ext file system in it says.

    GRUB cannot boot one that was cut off.
    """
    try:
        with path.open("rb") as file:
            file.seek(_SUPERBLOCK_AT)
            superblock = file.read(_SUPERBLOCK_BYTES)
            size_bytes = file.seek(0, 2)
    except OSError:
        return False
    needed = file_system_bytes(superblock)
    return needed is not None and 0 < needed <= size_bytes


def file_system_bytes(superblock: bytes) -> int | None:
    """Return the size that a superblock says; None if it is none of ext2, ext3, ext4: pure."""
    if len(superblock) < _SUPERBLOCK_BYTES:
        return None
    blocks = int.from_bytes(superblock[4:8], "little")
    log_block_size = int.from_bytes(superblock[24:28], "little")
    magic = int.from_bytes(superblock[56:58], "little")
    if magic != _EXT_MAGIC or log_block_size > 6:
        return None
    return blocks << (10 + log_block_size)
