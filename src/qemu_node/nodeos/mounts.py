"""The mounts of the system: making a read-only one writable for a moment, and what a path is on.

Owns `mount -o remount`, unmounting what an interrupted upgrade left, and what a path is on. Does
not own what is written. A directory of a test is no read-only mount: nothing is run for it.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.files.atomic import host_error
from qemu_node.host.files.mountinfo import parse_mounts
from qemu_node.host.process.command import run

_TIMEOUT_S = 60.0
# Of this system's overlays the upper part is in RAM, too (osimage: system/oem/00_layout.yaml).
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "overlay"})


def is_in_memory(path: Path, mountinfo: str) -> bool:
    """Tell whether what is written to `path` is in RAM on the node's own system: pure.

    Args:
        path: An absolute path, which need not exist.
        mountinfo: The mounts, as proc(5) has them.
    """
    found, kind = Path("/"), ""
    for mount in parse_mounts(mountinfo):
        if path.is_relative_to(mount.point) and mount.point.is_relative_to(found):
            found, kind = mount.point, mount.kind
    return kind in _IN_MEMORY


def is_read_only(path: Path) -> bool:
    """Tell whether the file system of `path` is mounted read only; False if there is no `path`."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


@contextlib.asynccontextmanager
async def writable(path: Path) -> AsyncGenerator[None]:
    """Have the mount point `path` writable inside the block; afterwards it is as it was before.

    Raises:
        HostError: it cannot be made writable.
    """
    if not is_read_only(path):
        yield
        return
    await remount(path, "rw")
    try:
        yield
    finally:
        # Also if the block is cancelled a second time.
        await finish(read_only_again(path))


async def remount(path: Path, mode: str) -> None:
    """Mount `path` anew as `rw` or `ro`.

    Raises:
        HostError: the kernel refused.
    """
    await run(["mount", "-o", f"remount,{mode}", str(path)], timeout_s=_TIMEOUT_S)


async def read_only_again(path: Path) -> None:
    """Mount `path` anew as read only, unless somebody writes there, which harms nothing."""
    with contextlib.suppress(NodeError):
        await remount(path, "ro")


async def unmount(path: Path) -> None:
    """Unmount `path` if it is a mount point. What still uses it goes on, and frees it at its end.

    Raises:
        HostError: the kernel refused.
    """
    if await asyncio.to_thread(path.is_mount):
        await run(["umount", "--lazy", str(path)], timeout_s=_TIMEOUT_S)


def free_bytes(path: Path) -> int:
    """Return what root can still write to the file system of `path`.

    Raises:
        HostError: there is no `path`.
    """
    try:
        info = os.statvfs(path)
    except OSError as exc:
        raise host_error("look at", path, exc) from exc
    return info.f_bfree * info.f_frsize
