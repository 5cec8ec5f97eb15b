"""`python -m bench.images.pull URL DIR`: pulls one image; prints seconds and peak memory (KiB).

A process of its own, so that its memory is that of a pull and nothing else.
"""

import asyncio
import sys
import time
from pathlib import Path

from qemu_node.config.images import ImagesConfig
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.images.cache import ImageCache


def bench_cache(images_dir: Path, tasks: TaskOwner) -> ImageCache:
    """Return an image cache that may fetch from loopback."""
    config = ImagesConfig(allow_networks=("127.0.0.0/8",))
    return ImageCache(images_dir, config, tasks)


async def _pull(url: str, images_dir: Path) -> float:
    async with TaskOwner("pull") as tasks:
        begin = time.perf_counter()
        cache = bench_cache(images_dir, tasks)
        (await cache.get(url, task_dir=images_dir, namespace="default")).close()
        return time.perf_counter() - begin


def _peak_kib() -> int:
    """Return the largest resident set that this process has had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise KeyError("VmHWM")


if __name__ == "__main__":
    seconds = asyncio.run(_pull(sys.argv[1], Path(sys.argv[2])))
    print(f"{seconds:.3f} {_peak_kib()}")
