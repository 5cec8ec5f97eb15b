"""Goals: one download for many starts, none within the TTL, a quick clone, curl's speed.

A server on loopback serves the images. The 20 first starts share a link of 64 MiB/s, because there
only the rate counts; the large image comes as fast as both sides can. A download is complete when
it is on stable storage, on both sides: curl's file is synced.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from bench.images.pull import bench_cache
from bench.images.served import FileServer
from bench.rig.node import CannotRunError
from bench.setting import Setting
from bench.table import Figure, Goal
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.process import command
from qemu_node.images.cache import ImageCache
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.format.overlay import write_overlay
from qemu_node.units import GIB, MIB

NAME = "images"

_STARTS = 20
_SHARED_MIB = 256
_SHARED_RATE = 64 * MIB
_LARGE_MIB = 2048
_ROUNDS = 3
_CLONES = 100
_TIMEOUT_S = 600.0

_WALL_MAX = 1.15
_CLONE_MAX = 0.25
_SPEED_MIN = 0.9
_MEMORY_MAX_MIB = 64.0


async def measure(_setting: Setting) -> list[Figure]:
    """Return the figures of downloads and clones.

    Raises:
        CannotRunError: curl or qemu-img is not installed, or the disk has no room.
    """
    for tool in ("curl", "qemu-img"):
        if shutil.which(tool, path=command.SAFE_ENV["PATH"]) is None:
            raise CannotRunError(f"{tool} is not installed")
    with _directory() as root:
        served = root / "served"
        served.mkdir()
        async with FileServer.running(served, root / "server.log") as server:
            shared = await _measure_shared(root, server)
            large = await _measure_large(root, server)
        return [*shared, *large, *await _measure_clones(root)]


@contextmanager
def _directory() -> Generator[Path]:
    """Give a directory on the disk, where /tmp may be in memory; it is removed in the end."""
    root = Path(tempfile.mkdtemp(prefix="qemu-node-bench-", dir="/var/tmp"))
    try:
        # Two copies of the large image are there at a time, and as much may wait to be written.
        if shutil.disk_usage(root).free < 4 * _LARGE_MIB * MIB:
            raise CannotRunError(f"{root.parent} has less than {4 * _LARGE_MIB // 1024} GiB free")
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _make_image(path: Path, size_mib: int) -> None:
    """Write a raw image that nothing can shorten: no holes and no repetition within a MiB."""
    with Path("/dev/urandom").open("rb") as source:
        block = b"\0" * 512 + source.read(MIB - 512)
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(block)


async def _measure_shared(root: Path, server: FileServer) -> list[Figure]:
    """Measure many first starts of one image against one plain download of it."""
    _make_image(server.directory / "shared.raw", _SHARED_MIB)
    url = f"{server.url}/shared.raw?rate={_SHARED_RATE}"
    ratios: list[float] = []
    gets: list[float] = []
    warm_gets: list[float] = []
    for number in range(_ROUNDS):
        plain_s = await _curl(url, root / "plain.raw")
        async with _cache(root / f"shared-{number}") as cache:
            server.forget()
            ratios.append(await _start_many(cache, url, root) / plain_s)
            gets.append(float(len(server.requests)))
            server.forget()
            await _start_many(cache, url, root)
            warm_gets.append(float(len(server.requests)))
        shutil.rmtree(root / f"shared-{number}")
    return [
        Figure(
            bench=NAME,
            what=f"requests of {_STARTS} first starts at once",
            unit="",
            samples=tuple(gets),
            goal=Goal(at_least=1, at_most=1),
        ),
        Figure(
            bench=NAME,
            what="… their time to that of one plain download",
            unit="",
            samples=tuple(ratios),
            goal=Goal(at_most=_WALL_MAX),
        ),
        Figure(
            bench=NAME,
            what=f"requests of {_STARTS} starts within the TTL",
            unit="",
            samples=tuple(warm_gets),
            goal=Goal(at_most=0),
        ),
    ]


@asynccontextmanager
async def _cache(images_dir: Path) -> AsyncGenerator[ImageCache]:
    async with TaskOwner("bench") as tasks:
        yield bench_cache(images_dir, tasks)


async def _start_many(cache: ImageCache, url: str, task_dir: Path) -> float:
    """Get an image as many starts at once do; return the seconds until all have it."""
    begin = time.perf_counter()
    images = await asyncio.gather(
        *(cache.get(url, task_dir=task_dir, namespace="default") for _ in range(_STARTS))
    )
    took_s = time.perf_counter() - begin
    for image in images:
        image.close()
    return took_s


async def _curl(url: str, path: Path) -> float:
    """Return the seconds of a plain download to the disk."""
    script = 'curl --silent --fail --output "$2" "$1" && sync "$2"'
    begin = time.perf_counter()
    _ = await command.run(["sh", "-c", script, "sh", url, str(path)], timeout_s=_TIMEOUT_S)
    took_s = time.perf_counter() - begin
    await asyncio.to_thread(path.unlink)
    return took_s


async def _measure_large(root: Path, server: FileServer) -> list[Figure]:
    """Measure the speed of one large image against curl's, in turns."""
    _make_image(server.directory / "large.raw", _LARGE_MIB)
    url = f"{server.url}/large.raw"
    curl_s: list[float] = []
    ours_s: list[float] = []
    peak_mib: list[float] = []
    for number in range(_ROUNDS):
        curl_s.append(await _curl(url, root / "plain.raw"))
        took_s, mib = await _pull(url, root / f"large-{number}")
        ours_s.append(took_s)
        peak_mib.append(mib)
        shutil.rmtree(root / f"large-{number}")
    speeds = tuple(
        tuple(_LARGE_MIB / seconds for seconds in samples) for samples in (curl_s, ours_s)
    )
    return [
        Figure(bench=NAME, what=f"curl, {_LARGE_MIB} MiB", unit="MiB/s", samples=speeds[0]),
        Figure(bench=NAME, what="ours, verified", unit="MiB/s", samples=speeds[1]),
        Figure(
            bench=NAME,
            what="ours / curl",
            unit="",
            samples=tuple(ours / curl for curl, ours in zip(*speeds, strict=True)),
            goal=Goal(at_least=_SPEED_MIN),
        ),
        Figure(
            bench=NAME,
            what="memory of the process that fetches, at most",
            unit="MiB",
            samples=tuple(peak_mib),
            goal=Goal(at_most=_MEMORY_MAX_MIB),
        ),
    ]


async def _pull(url: str, images_dir: Path) -> tuple[float, float]:
    """Return the seconds of a pull and the memory of a process that does nothing else."""
    argv = [sys.executable, "-m", "bench.images.pull", url, str(images_dir)]
    env = {**command.SAFE_ENV, "PYTHONPATH": ":".join(sys.path)}
    done = await command.run(argv, env=env, timeout_s=_TIMEOUT_S)
    took_s, peak_kib = done.stdout.split()
    return float(took_s), float(peak_kib) / 1024


async def _measure_clones(root: Path) -> list[Figure]:
    """Measure making an overlay against qemu-img, in turns."""
    base = root / "base.raw"
    base.touch()
    with base.open("r+b") as file:
        file.truncate(GIB)
    ours_ms: list[float] = []
    qemu_img_ms: list[float] = []
    for number in range(_CLONES):
        path = root / f"clone-{number}.qcow2"
        begin = time.perf_counter()
        with base.open("rb") as file:
            write_overlay(
                path,
                base=base,
                base_fd=file.fileno(),
                base_format=ImageFormat.RAW,
                virtual_size_bytes=GIB,
            )
        ours_ms.append(1000 * (time.perf_counter() - begin))
        path.unlink()
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(path)]
        begin = time.perf_counter()
        _ = await command.run(argv)
        qemu_img_ms.append(1000 * (time.perf_counter() - begin))
        path.unlink()
    return [
        Figure(bench=NAME, what="linked clone", unit="ms", samples=tuple(ours_ms)),
        Figure(bench=NAME, what="qemu-img create", unit="ms", samples=tuple(qemu_img_ms)),
        Figure(
            bench=NAME,
            what="clone / qemu-img",
            unit="",
            samples=tuple(a / b for a, b in zip(ours_ms, qemu_img_ms, strict=True)),
            goal=Goal(at_most=_CLONE_MAX),
        ),
    ]
