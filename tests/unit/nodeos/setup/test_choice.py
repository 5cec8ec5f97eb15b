from dataclasses import replace

import pytest

from qemu_node.nodeos.setup.choice import (
    Choice,
    RefusedError,
    choose_disks,
    disk_key,
    find_disk,
    matches,
    named_disk,
)
from qemu_node.nodeos.setup.disks import Disk, Volume
from qemu_node.nodeos.setup.seed import DataPattern, DiskPattern
from qemu_node.units import GIB, TIB

_HOW = "type --wipe {disk}"

SDA = Disk(
    path="/dev/sda",
    size_bytes=480 * GIB,
    model="Samsung SSD 870",
    serial="S5Y1",
    transport="sata",
    links=("/dev/disk/by-id/ata-Samsung_S5Y1", "/dev/disk/by-path/pci-0000:00:1f.2-ata-1"),
)
SDB = Disk(path="/dev/sdb", size_bytes=4 * TIB, model="WDC", transport="sas", is_rotational=True)
STICK = Disk(
    path="/dev/sdc",
    size_bytes=32 * GIB,
    transport="usb",
    volumes=(Volume(path="/dev/sdc1", label="SEED", fstype="vfat"),),
)
MEDIUM = Disk(
    path="/dev/sdd",
    size_bytes=32 * GIB,
    transport="usb",
    volumes=(Volume(path="/dev/sdd", label="COS_LIVE", mounts=("/run/initramfs/live",)),),
)
ALL = (SDA, SDB, STICK, MEDIUM)


def _with(disk: Disk, *labels: str, mounts: tuple[str, ...] = ()) -> Disk:
    volumes = [
        Volume(path=f"{disk.path}{n}", label=label, fstype="ext4", mounts=mounts)
        for n, label in enumerate(labels, 1)
    ]
    return replace(disk, volumes=tuple(volumes))


def _choose(system: Disk, *others: Disk, wipe: bool = False, **rest: object) -> Choice:
    return choose_disks(system, (system, *others), wipe=wipe, how=_HOW, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "is_match"),
    [
        (DiskPattern(model="samsung*"), True),
        (DiskPattern(model="samsung"), False),
        (DiskPattern(serial="S5Y?"), True),
        (DiskPattern(path="/dev/disk/by-path/*ata-1"), True),
        (DiskPattern(path="/dev/sda"), True),
        (DiskPattern(path="/dev/sdb"), False),
        (DiskPattern(transport="sata", min_size="400G", max_size="500G"), True),
        (DiskPattern(min_size="500G"), False),
        (DiskPattern(rotational=True), False),
        (DiskPattern(rotational=False, model="*870"), True),
    ],
)
def test_a_disk_matches_all_of_a_pattern(pattern: DiskPattern, *, is_match: bool) -> None:
    assert matches(pattern, SDA) is is_match


def test_the_smallest_disk_is_neither_the_medium_nor_the_stick_with_the_seed() -> None:
    pattern = DiskPattern(choose="smallest")
    assert find_disk(pattern, ALL, purpose="it") is SDA


def test_two_disks_that_match_are_refused_by_name() -> None:
    with pytest.raises(RefusedError, match=r"2 disks match .*/dev/sda.*/dev/sdb"):
        find_disk(DiskPattern(path="/dev/sd*"), ALL, purpose="it")


def test_no_match_lists_the_disks() -> None:
    with pytest.raises(RefusedError) as caught:
        find_disk(DiskPattern(model="Intel*"), ALL, purpose="it")
    assert "/dev/sda (480.0 GiB, Samsung SSD 870, serial S5Y1, sata)" in caught.value.explain()


def test_a_partition_is_answered_with_its_disk() -> None:
    with pytest.raises(RefusedError, match="a part of the disk /dev/sdc"):
        named_disk("/dev/sdc1", "/dev/sdc1", ALL)


def test_an_empty_disk_is_taken() -> None:
    assert _choose(SDA, SDB) == Choice(system=SDA)


def test_a_disk_with_anything_on_it_is_refused_with_what_to_type() -> None:
    with pytest.raises(RefusedError) as caught:
        _choose(_with(SDA, "root"))
    assert '/dev/sda1 (ext4 "root"' in str(caught.value)
    assert caught.value.hint == "type --wipe /dev/sda"


def test_a_disk_is_erased_where_that_was_said() -> None:
    assert _choose(_with(SDA, "root"), wipe=True).system.path == "/dev/sda"


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (_with(SDA, "root", mounts=("/mnt",)), "in use: /mnt"),
        (_with(SDA, "swap", mounts=("[SWAP]",)), "in use"),
        (MEDIUM, "is the medium"),
        (STICK, "is the medium"),
        (replace(SDA, is_read_only=True), "read only"),
        (replace(SDA, size_bytes=8 * GIB), "too small"),
    ],
)
def test_some_disks_are_refused_whatever_was_said(disk: Disk, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        _choose(disk, wipe=True)


def test_a_second_disk_with_a_node_is_refused_with_what_to_type() -> None:
    other = _with(SDB, "COS_GRUB", "COS_STATE")
    with pytest.raises(RefusedError, match="another installed node") as caught:
        _choose(SDA, other)
    assert caught.value.hint is not None
    assert "wipefs --all /dev/sdb1 /dev/sdb2" in caught.value.hint


def test_an_existing_data_disk_is_kept() -> None:
    data = _with(SDB, "DATA")
    choice = _choose(SDA, data)
    assert choice.data is data
    assert not choice.formats_data


def test_two_data_disks_are_refused_until_one_is_named() -> None:
    one = _with(SDB, "DATA")
    two = replace(_with(SDB, "DATA"), path="/dev/sde")
    with pytest.raises(RefusedError, match="several disks have a file system DATA"):
        _choose(SDA, one, two)
    # The other one would be in the way at the next boot.
    with pytest.raises(RefusedError, match="there is a file system DATA on /dev/sde"):
        _choose(SDA, one, two, data=one)


def test_an_empty_disk_becomes_the_data_disk() -> None:
    choice = _choose(SDA, SDB, data=SDB)
    assert choice.data is SDB
    assert choice.formats_data


def test_a_data_disk_with_something_else_is_refused_unless_the_seed_may_wipe_it() -> None:
    other = _with(SDB, "photos")
    with pytest.raises(RefusedError, match="not empty"):
        _choose(SDA, other, data=other)
    pattern = DataPattern(path="/dev/sdb", wipe=True)
    assert _choose(SDA, other, data=other, data_pattern=pattern).formats_data


def test_data_beside_the_system_leaves_no_other_data_disk() -> None:
    pattern = DataPattern(same_disk=True)
    assert _choose(SDA, data_pattern=pattern).data_on_system
    with pytest.raises(RefusedError, match="there is a file system DATA"):
        _choose(SDA, _with(SDB, "DATA"), data_pattern=pattern)


def test_the_system_disk_cannot_be_the_data_disk() -> None:
    with pytest.raises(RefusedError, match="is the system's disk"):
        _choose(SDA, data=SDA)


def test_a_disk_is_known_again_by_its_identity_rather_than_its_place() -> None:
    assert disk_key(SDA) == "/dev/disk/by-id/ata-Samsung_S5Y1"
    assert disk_key(SDB) == ""
    wwn = replace(SDA, links=("/dev/disk/by-id/ata-X", "/dev/disk/by-id/wwn-0x5"))
    assert disk_key(wwn) == "/dev/disk/by-id/wwn-0x5"
