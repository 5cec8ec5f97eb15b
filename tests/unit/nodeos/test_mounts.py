import asyncio
from pathlib import Path

import pytest

from qemu_node.nodeos import mounts
from qemu_node.nodeos.mounts import is_in_memory

# An installed node: the image, Elemental's overlays, the data disk.
MOUNTINFO = """\
22 1 7:0 / / ro,relatime shared:1 - ext2 /dev/loop0 ro
23 22 0:21 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,mode=755
24 22 0:33 / /var rw,relatime shared:6 - overlay overlay rw,lowerdir=/var
25 22 8:18 / /data rw,noatime shared:7 - ext4 /dev/sdb1 rw
26 24 8:5 /log /var/log rw,relatime shared:8 - ext4 /dev/sda5 rw
27 25 0:40 / /data/scratch rw shared:9 - tmpfs tmpfs rw
28 27 8:19 / /data/scratch rw shared:10 - ext4 /dev/sdc1 rw
short line
"""


@pytest.mark.parametrize("path", ["/var/lib/qemu-node", "/var", "/run/x", "/var/logs"])
def test_what_is_below_an_overlay_or_tmpfs_is_in_memory(path: str) -> None:
    assert is_in_memory(Path(path), MOUNTINFO)


@pytest.mark.parametrize("path", ["/data", "/data/vm", "/var/log/x", "/data/scratch/a", "/srv"])
def test_what_is_on_a_disk_is_not(path: str) -> None:
    assert not is_in_memory(Path(path), MOUNTINFO)


async def test_what_was_read_only_is_so_again_however_often_its_user_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes: list[str] = []

    async def remount(path: Path, mode: str) -> None:
        del path
        await asyncio.sleep(0)
        modes.append(mode)

    monkeypatch.setattr(mounts, "is_read_only", lambda path: path == Path("/state"))
    monkeypatch.setattr(mounts, "remount", remount)
    started = asyncio.Event()

    async def use() -> None:
        async with mounts.writable(Path("/state")):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(use())
    await started.wait()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert modes == ["rw", "ro"]
