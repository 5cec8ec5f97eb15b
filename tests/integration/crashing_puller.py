"""A program that gets an image and is killed by SIGKILL at a named step.

    python crashing_puller.py IMAGES_DIR URL STEP

STEP is one that is announced in the log (`DownloadStep`), `chunk N` for the moment at which N bytes
have been received, or `never`. Writes the digest of what it got.
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
from qemu_node.images.store.partialfile import PartialFile


class _Assassin(logging.Handler):
    """Kills this process at a step."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    def emit(self, record: logging.LogRecord) -> None:
        if record.__dict__.get("step") == self._step:
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_after(received_bytes: int) -> None:
    """Die with so much received; what a thread is doing with it at that moment is left open."""
    write = PartialFile.write

    def write_and_die(self: PartialFile, *chunks: bytes) -> None:
        write(self, *chunks)
        if self.received_bytes >= received_bytes:
            _die()

    PartialFile.write = write_and_die  # type: ignore[method-assign]


async def _get(images_dir: Path, url: str) -> None:
    config = ImagesConfig(allow_networks=("127.0.0.0/8",), ttl="0s")
    async with TaskOwner() as tasks:
        cache = ImageCache(images_dir, config, tasks)
        with await cache.get(url, task_dir=Path("/nonexistent")) as image:
            sys.stdout.write(str(image.digest))


def main() -> None:
    images_dir, url, step = sys.argv[1:]
    log = logging.getLogger("qemu_node")
    log.setLevel(logging.DEBUG)
    log.addHandler(_Assassin(step))
    if step.startswith("chunk "):
        _die_after(int(step.removeprefix("chunk ")))
    asyncio.run(_get(Path(images_dir), url))


if __name__ == "__main__":
    main()
