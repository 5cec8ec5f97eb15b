import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import HostError
from qemu_node.nodeos.setup.disks import Disk, parse_disks, parse_signatures

_LSBLK = {
    "blockdevices": [
        {
            "path": "/dev/sda", "type": "disk", "size": 500107862016, "model": "Samsung SSD 870 ",
            "serial": "S5Y1", "wwn": "0x5002538f", "tran": "sata", "ro": False, "rota": False,
            "fstype": None, "label": None, "uuid": None, "partlabel": None, "pttype": "gpt",
            "mountpoints": [None],
            "children": [
                {"path": "/dev/sda1", "type": "part", "size": 1 << 30, "fstype": "vfat",
                 "label": "COS_GRUB", "uuid": "A", "partlabel": "efi", "mountpoints": [None]},
                {"path": "/dev/sda2", "type": "part", "size": 1 << 30, "fstype": "LVM2_member",
                 "mountpoints": [None],
                 "children": [{"path": "/dev/mapper/vg-root", "type": "lvm", "size": 1 << 29,
                               "fstype": "ext4", "mountpoints": ["/srv", None]}]},
            ],
        },
        {"path": "/dev/sdb", "type": "disk", "size": 1 << 40, "pttype": None, "fstype": None},
        {"path": "/dev/sdc", "type": "disk", "size": 1 << 40, "pttype": "dos", "fstype": None},
        {"path": "/dev/sdd", "type": "disk", "size": 1 << 40, "fstype": "ext4", "label": "DATA"},
        {"path": "/dev/sde", "type": "disk", "size": 0},
        {"path": "/dev/sr0", "type": "rom", "size": 1 << 29, "label": "COS_LIVE"},
        {"path": "/dev/loop0", "type": "loop", "size": 1 << 29},
    ]
}  # fmt: skip


def _disks() -> dict[str, Disk]:
    links = {"/dev/sda": ("/dev/disk/by-path/pci-1",)}
    return {disk.path: disk for disk in parse_disks(json.dumps(_LSBLK).encode(), links)}


def test_disks_are_listed_without_cd_drives_loops_and_empty_card_readers() -> None:
    assert list(_disks()) == ["/dev/sda", "/dev/sdb", "/dev/sdc", "/dev/sdd"]


def test_a_disk_has_its_facts_its_links_and_all_that_is_on_it_at_any_depth() -> None:
    disk = _disks()["/dev/sda"]
    assert (disk.model, disk.serial, disk.transport) == ("Samsung SSD 870", "S5Y1", "sata")
    assert disk.links == ("/dev/disk/by-path/pci-1",)
    assert [volume.path for volume in disk.volumes] == [
        "/dev/sda1",
        "/dev/sda2",
        "/dev/mapper/vg-root",
    ]
    assert disk.mounts == ("/srv",)
    assert disk.labels == {"COS_GRUB"}


def test_a_disk_is_empty_only_without_partition_table_and_file_system() -> None:
    disks = _disks()
    assert not disks["/dev/sdb"].volumes
    assert disks["/dev/sdc"].volumes
    assert [volume.label for volume in disks["/dev/sdd"].volumes] == ["DATA"]


@given(st.binary(max_size=200))
def test_any_output_is_a_list_or_an_error(output: bytes) -> None:
    with contextlib.suppress(HostError):
        parse_disks(output, {})


def test_a_disk_cannot_steer_the_terminal() -> None:
    device = {"path": "/dev/sda", "type": "disk", "size": 1, "model": "a\x1b[2Jb"}
    [disk] = parse_disks(json.dumps({"blockdevices": [device]}).encode(), {})
    assert disk.model == "a[2Jb"


def test_nonsense_is_an_error_for_people() -> None:
    with pytest.raises(HostError, match="lsblk printed something else"):
        parse_disks(b"[]", {})


def test_a_disk_that_udev_has_not_seen_is_not_empty() -> None:
    disk = Disk(path="/dev/sda", size_bytes=1)
    output = (
        b'{"signatures": [{"device": "sda", "offset": "0x438", "type": "ext4", "label": "DATA"}]}'
    )
    [volume] = parse_signatures(output, disk)
    assert (volume.path, volume.fstype, volume.label) == ("/dev/sda", "ext4", "DATA")
    assert parse_signatures(b"", disk) == ()
    with pytest.raises(HostError, match="wipefs printed"):
        parse_signatures(b"[]", disk)
