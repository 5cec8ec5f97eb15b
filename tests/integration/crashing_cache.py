"""A program that tends an image cache and is killed by SIGKILL at a named point.

    python crashing_cache.py IMAGES POINT pull URL
    python crashing_cache.py IMAGES POINT remove

A point is `swap NAME` or `removal NAME`, the step that is announced in the log.
"""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from qemu_node.config.images import ImagesConfig
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.images.cache import ImageCache
from qemu_node.images.keeper import ImageKeeper

SETTINGS = ImagesConfig(allow_networks=("127.0.0.0/8",), ttl="0s")


class _Assassin(logging.Handler):
    """Kills this process at a step."""

    def __init__(self, point: str) -> None:
        super().__init__()
        self._point = point

    def emit(self, record: logging.LogRecord) -> None:
        kind, _, what = record.getMessage().partition(" ")
        if what == "step" and f"{kind} {record.__dict__['step']}" == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


async def _pull(images_dir: Path, url: str) -> None:
    async with TaskOwner() as tasks:
        await ImageCache(images_dir, SETTINGS, tasks).pull(url)


def main() -> None:
    images_dir, point, action, *urls = sys.argv[1:]
    log = logging.getLogger("qemu_node")
    log.setLevel(logging.DEBUG)
    log.addHandler(_Assassin(point))
    if action == "pull":
        asyncio.run(_pull(Path(images_dir), urls[0]))
    else:
        keeper = ImageKeeper(Path(images_dir), Path(images_dir).parent / "vm", SETTINGS)
        for image in keeper.images():
            keeper.remove(image, force=True)


if __name__ == "__main__":
    main()
