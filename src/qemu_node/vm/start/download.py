"""Waiting for a VM's image, as long as the node allows, and telling the task's events about it."""

import asyncio
from collections.abc import Callable

from qemu_node.errors import HostError
from qemu_node.images.cache import CachedImage
from qemu_node.vm.node import Node, Tell
from qemu_node.vm.start.request import VMRequest

LONG_WAIT_S = 2.0
"""An image that takes longer is one that a person may want to stop waiting for."""


async def fetch_image(
    request: VMRequest, node: Node, tell: Tell, on_long_wait: Callable[[], None]
) -> CachedImage:
    """Return the image, waiting at most the node's pull timeout for a download.

    `on_long_wait` is called once it has taken `LONG_WAIT_S`.

    Raises:
        HostError: the download goes on in the background; a later start will find it.
        ImageError: the image cannot be had, or is refused.
    """
    progress = _DownloadProgress(tell)
    notice = asyncio.get_running_loop().call_later(LONG_WAIT_S, on_long_wait)
    try:
        async with asyncio.timeout(node.pull_timeout_s):
            image = await node.images.get(
                request.image,
                checksum=request.checksum,
                task_dir=request.task_dir,
                namespace=request.identity.namespace,
                on_progress=progress,
            )
    except TimeoutError:
        raise HostError(
            f"the image is still being downloaded after {node.pull_timeout_s:g} s",
            hint="the download goes on; a later start will find it",
        ) from None
    finally:
        notice.cancel()
    if image.note is not None:
        tell(image.note, {})
    return image


class _DownloadProgress:
    """Tells the task's events of a download: its start, its half, its end; Nomad keeps ten."""

    _MARKS_PCT = (0, 50, 100)

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._next = 0

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        pct = done_bytes * 100 // total_bytes if total_bytes else 0
        reached = sum(1 for mark in self._MARKS_PCT if pct >= mark)
        if reached > self._next:
            self._next = reached
            self._tell(f"Downloading image: {pct} %", {"percent": str(pct)})
