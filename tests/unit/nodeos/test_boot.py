from pathlib import Path

import pytest

from qemu_node.nodeos.boot import Boot, BootMode, read_boot, root_device, snapshot_of
from qemu_node.nodeos.paths import NodePaths

_MOUNTS = """\
1 0 0:1 / / rw - rootfs rootfs rw
30 1 7:0 / / ro,relatime shared:1 - ext2 /dev/loop0 ro
31 30 254:5 / /run/initramfs/elemental-state rw - ext4 /dev/vda4 rw
32 30 7:1 / /run/elemental/workingtree rw - ext2 /dev/loop1 rw
"""


def _node(root: Path, mode: str, image: str) -> NodePaths:
    paths = NodePaths(root)
    for path, text in (
        (paths.mode(mode), "1"),
        (paths.mountinfo, _MOUNTS),
        (paths.backing_file("7:0"), f"{image}\n"),
        (paths.boot_id, "5c1e\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return paths


@pytest.mark.parametrize("mode", ["active", "passive"])
def test_the_snapshot_is_the_image_that_is_mounted_as_root(tmp_path: Path, mode: str) -> None:
    paths = _node(tmp_path, mode, "/run/initramfs/elemental-state/.snapshots/3/snapshot.img")
    boot = read_boot(paths)
    assert boot == Boot(mode=BootMode(mode), snapshot=3, boot_id="5c1e")
    assert boot.is_installed


def test_a_snapshot_whose_file_was_removed_is_still_the_booted_one() -> None:
    assert snapshot_of("/.snapshots/12/snapshot.img (deleted)") == 12


def test_a_live_system_is_no_snapshot(tmp_path: Path) -> None:
    boot = read_boot(_node(tmp_path, "live", "/run/initramfs/live/rootfs.squashfs"))
    assert boot.mode is BootMode.LIVE
    assert boot.snapshot is None
    assert not boot.is_installed


def test_a_plain_system_has_no_mode(tmp_path: Path) -> None:
    assert read_boot(NodePaths(tmp_path)) == Boot(mode=BootMode.OTHER, snapshot=None)


def test_the_last_mount_on_root_counts() -> None:
    assert root_device(_MOUNTS) == "7:0"
    assert root_device("nonsense\n") is None
