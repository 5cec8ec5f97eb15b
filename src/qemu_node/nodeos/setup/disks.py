"""The disks of a machine and what is on them, as lsblk(8) and wipefs(8) of util-linux say.

Owns reading them. Does not own any decision (`choice`). Sizes are bytes.

lsblk tells what udev has seen, which may be nothing or too old. So a disk that it takes for empty
is looked at once more, by wipefs, which reads the disk itself.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qemu_node.errors import HostError
from qemu_node.host.process.command import run_blocking
from qemu_node.text import DECODE_ERRORS
from qemu_node.units import format_size

DATA_LABEL = "DATA"
SEED_LABEL = "SEED"
LIVE_LABEL = "COS_LIVE"
NODE_LABELS = frozenset({"COS_GRUB", "COS_OEM", "COS_RECOVERY", "COS_STATE", "COS_PERSISTENT"})
"""The labels of an installed node (elemental: pkg/constants/constants.go)."""

_COLUMNS = (
    "PATH", "TYPE", "SIZE", "MODEL", "SERIAL", "WWN", "TRAN", "RO", "ROTA",
    "FSTYPE", "LABEL", "UUID", "PARTLABEL", "PTTYPE", "MOUNTPOINTS",
)  # fmt: skip
_LINKS = ("by-path", "by-id")
_LSBLK_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Something on a disk: a partition, what lies on one, or a file system on the whole disk."""

    path: str
    size_bytes: int = 0
    fstype: str = ""
    label: str = ""
    uuid: str = ""
    partlabel: str = ""
    mounts: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return it as a person knows it: `/dev/sda1 (ext4 "root", 20 GiB)`."""
        name = f' "{self.label or self.partlabel}"' if self.label or self.partlabel else ""
        return (
            f"{self.path} ({self.fstype or 'no file system'}{name}, {format_size(self.size_bytes)})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk, with all that is on it."""

    path: str
    size_bytes: int
    model: str = ""
    serial: str = ""
    wwn: str = ""
    transport: str = ""
    is_rotational: bool = False
    is_read_only: bool = False
    links: tuple[str, ...] = ()
    """Its other names, in /dev/disk/by-path and by-id."""
    volumes: tuple[Volume, ...] = ()
    """Empty if the disk is: neither a partition table nor a file system."""

    @property
    def labels(self) -> frozenset[str]:
        """The labels of all file systems on it."""
        return frozenset(volume.label for volume in self.volumes if volume.label)

    @property
    def mounts(self) -> tuple[str, ...]:
        """Where something on it is mounted, or `[SWAP]`."""
        return tuple(mount for volume in self.volumes for mount in volume.mounts)

    def describe(self) -> str:
        """Return it as a person knows it."""
        facts = (self.model, f"serial {self.serial}" if self.serial else "", self.transport)
        return f"{self.path} ({', '.join(filter(None, (format_size(self.size_bytes), *facts)))})"


class _Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device of `lsblk --json`. lsblk writes null for what it does not know."""

    path: str
    type: str | None = None
    size: int | None = None
    model: str | None = None
    serial: str | None = None
    wwn: str | None = None
    tran: str | None = None
    ro: bool | None = None
    rota: bool | None = None
    fstype: str | None = None
    label: str | None = None
    uuid: str | None = None
    partlabel: str | None = None
    pttype: str | None = None
    mountpoints: tuple[str | None, ...] = ()
    children: "tuple[_Device, ...]" = ()


class _Signature(msgspec.Struct, frozen=True, kw_only=True):
    """A signature of `wipefs --json`."""

    type: str
    label: str | None = None
    uuid: str | None = None


class _Signatures(msgspec.Struct, frozen=True):
    signatures: tuple[_Signature, ...]


class _Listing(msgspec.Struct, frozen=True):
    blockdevices: tuple[_Device, ...]


def read_disks(
    *,
    types: Iterable[str] = ("disk",),
    dev: Path = Path("/dev"),
    looks_at_disks: bool = True,
) -> tuple[Disk, ...]:
    """Return the machine's disks by their paths. Blocks for lsblk and wipefs.

    Args:
        types: lsblk's types of devices that count as disks; tests add `loop`.
        dev: The directory of devices.
        looks_at_disks: Whether disks that seem empty are read. It is an error if one cannot be,
            so do not if that does not matter.

    Raises:
        NodeError: one of them is missing, fails or prints nonsense.
    """
    done = run_blocking(
        ["lsblk", "--json", "--bytes", "--output", ",".join(_COLUMNS)], timeout_s=_LSBLK_S
    )
    return tuple(
        disk
        if disk.volumes or not looks_at_disks
        else replace(disk, volumes=_read_signatures(disk))
        for disk in parse_disks(done.stdout, read_links(dev), types=types)
    )


def _read_signatures(disk: Disk) -> tuple[Volume, ...]:
    """Return what lies on the whole disk: partition tables, too."""
    done = run_blocking(["wipefs", "--json", disk.path], timeout_s=_LSBLK_S)
    return parse_signatures(done.stdout, disk)


def parse_signatures(output: bytes, disk: Disk) -> tuple[Volume, ...]:
    """Return what wipefs's JSON `output` names, as volumes of `disk`: pure.

    Raises:
        HostError: it is not what wipefs of util-linux 2.38 and later prints.
    """
    if not output.strip():
        return ()
    try:
        found = msgspec.json.decode(output, type=_Signatures).signatures
    except DECODE_ERRORS as exc:
        raise HostError(f"wipefs printed something else than signatures: {exc}") from exc
    return tuple(
        Volume(
            path=disk.path,
            size_bytes=disk.size_bytes,
            fstype=_text(signature.type),
            label=_text(signature.label),
            uuid=_text(signature.uuid),
        )
        for signature in found
    )


def read_links(dev: Path) -> dict[str, tuple[str, ...]]:
    """Return the links in /dev/disk/by-path and by-id, by the device to which they lead."""
    found: dict[str, list[str]] = {}
    for directory in _LINKS:
        try:
            names = sorted(os.listdir(dev / "disk" / directory))  # noqa: PTH208 - names alone
        except OSError:
            continue  # without such disks there is no directory
        for name in names:
            link = dev / "disk" / directory / name
            found.setdefault(os.path.realpath(link), []).append(str(link))
    return {device: tuple(links) for device, links in found.items()}


def parse_disks(
    output: bytes, links: Mapping[str, tuple[str, ...]], *, types: Iterable[str] = ("disk",)
) -> tuple[Disk, ...]:
    """Return the disks in lsblk's JSON `output`: pure.

    Raises:
        HostError: it is not what lsblk of util-linux 2.38 and later prints.
    """
    try:
        listing = msgspec.json.decode(output, type=_Listing)
    except DECODE_ERRORS as exc:
        raise HostError(f"lsblk printed something else than a list of disks: {exc}") from exc
    wanted = frozenset(types)
    # A size of 0: a card reader without a card, a loop device without a file.
    found = [dev for dev in listing.blockdevices if dev.type in wanted and dev.size]
    return tuple(sorted((_disk(device, links) for device in found), key=lambda disk: disk.path))


def _disk(device: _Device, links: Mapping[str, tuple[str, ...]]) -> Disk:
    volumes = list(_volumes(device.children))
    if device.fstype or device.pttype or any(device.mountpoints):
        # A partition table without partitions is something, too.
        whole = _volume(device)
        if device.fstype or any(device.mountpoints) or not volumes:
            volumes.insert(0, whole)
    return Disk(
        path=device.path,
        size_bytes=device.size or 0,
        model=_text(device.model),
        serial=_text(device.serial),
        wwn=_text(device.wwn),
        transport=_text(device.tran),
        is_rotational=bool(device.rota),
        is_read_only=bool(device.ro),
        links=links.get(device.path, ()),
        volumes=tuple(volumes),
    )


def _volumes(devices: Iterable[_Device]) -> Iterator[Volume]:
    for device in devices:
        yield _volume(device)
        yield from _volumes(device.children)


def _volume(device: _Device) -> Volume:
    return Volume(
        path=device.path,
        size_bytes=device.size or 0,
        fstype=_text(device.fstype),
        label=_text(device.label),
        uuid=_text(device.uuid),
        partlabel=_text(device.partlabel),
        mounts=tuple(mount for mount in device.mountpoints if mount),
    )


def _text(value: str | None) -> str:
    """Return what a disk says about itself, as text for a terminal."""
    return "".join(char for char in value or "" if char.isprintable()).strip()
