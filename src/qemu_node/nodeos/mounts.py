"""Making a read-only partition of the system writable for a moment.

Owns `mount -o remount` and unmounting what an interrupted upgrade left. Does not own what is
written. A directory of a test is no read-only mount, so nothing is run for it.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import host_error
from qemu_node.host.process.command import run

_TIMEOUT_S = 60.0


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
        # Busy with a file of somebody else: it stays writable, which harms nothing.
        with contextlib.suppress(HostError):
            await remount(path, "ro")


async def remount(path: Path, mode: str) -> None:
    """Mount `path` anew as `rw` or `ro`.

    Raises:
        HostError: the kernel refused.
    """
    await run(["mount", "-o", f"remount,{mode}", str(path)], timeout_s=_TIMEOUT_S)


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
