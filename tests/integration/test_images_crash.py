"""SIGKILL of a process at each step of a download, several processes at once, and full disks.

Each ends with a good start by a process that knows nothing of the former.
"""

import asyncio
import contextlib
import gzip
import hashlib
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.image_server import ImageServer, Resource
from fakes.qcow2_images import Qcow2
from integration import crashing_puller

import qemu_node
from qemu_node.config.images import ImagesConfig
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.process import command
from qemu_node.images.cache import ImageCache
from qemu_node.images.download.download import DownloadStep
from qemu_node.images.errors import ImageStorageError
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.store.keptimage import file_name
from qemu_node.images.store.store import ImageStore, SwapStep
from qemu_node.units import Share

pytestmark = pytest.mark.timeout(120)

_TESTS = Path(__file__).parents[1]
_SRC = Path(qemu_node.__file__).parents[1]
_ENV = {**command.SAFE_ENV, "PYTHONPATH": f"{_TESTS}:{_SRC}"}

IMAGE = os.urandom(1 << 20) * 4
PACKED = gzip.compress(IMAGE, 1)
NEVER = "never"
WAIT_S = 60.0


@pytest.fixture
async def server() -> AsyncGenerator[ImageServer]:
    async with ImageServer.running() as server:
        yield server


@pytest.fixture
def images_dir(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
async def cache(images_dir: Path) -> AsyncGenerator[ImageCache]:
    async with TaskOwner() as tasks:
        config = ImagesConfig(allow_networks=("127.0.0.0/8",), ttl="0s")
        yield ImageCache(images_dir, config, tasks)


def argv(images_dir: Path, url: str, step: str) -> list[str]:
    return [sys.executable, crashing_puller.__file__, str(images_dir), url, step]


async def crash(images_dir: Path, url: str, step: str) -> None:
    """Let a process die at `step` of getting the image."""
    done = await command.run(argv(images_dir, url, step), env=_ENV, timeout_s=WAIT_S, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


async def digest_of(cache: ImageCache, url: str) -> str | None:
    with await cache.get(url, task_dir=Path("/nonexistent")) as image:
        assert image.path.read_bytes() == os.pread(image.fd, image.path.stat().st_size, 0)
        assert hashlib.sha256(image.path.read_bytes()).hexdigest() in str(image.digest)
        return image.digest


def left_in(images_dir: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (images_dir / kind).iterdir())


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("body", [IMAGE, PACKED], ids=["plain", "packed"])
@pytest.mark.parametrize("step", DownloadStep)
async def test_process_killed_at_any_step_of_a_download_leaves_no_half_image(
    server: ImageServer, images_dir: Path, cache: ImageCache, step: DownloadStep, body: bytes
) -> None:
    url = server.publish("/x", body)
    await crash(images_dir, url, step)
    for name in left_in(images_dir, "blobs"):
        content = (images_dir / "blobs" / name).read_bytes()
        assert name == f"sha256-{hashlib.sha256(content).hexdigest()}.raw"
    assert await digest_of(cache, url) == sha256(IMAGE)
    assert left_in(images_dir, "partial") == []
    assert len(left_in(images_dir, "blobs")) == 1


@pytest.mark.parametrize("step", [*SwapStep, DownloadStep.RELEASE])
async def test_process_killed_while_a_new_version_comes_leaves_the_one_that_a_checksum_names(
    server: ImageServer, images_dir: Path, cache: ImageCache, step: str
) -> None:
    url = server.publish("/x", IMAGE)
    checksum = sha256(IMAGE)
    with await cache.get(url, checksum=checksum, task_dir=Path("/nonexistent")):
        pass
    server.publish("/x", Qcow2().build())
    await crash(images_dir, url, step)
    keeper = ImageKeeper(images_dir, images_dir.parent / "vm", ImagesConfig())
    await asyncio.to_thread(keeper.sweep)
    server.requests.clear()
    with await cache.get(url, checksum=checksum, task_dir=Path("/nonexistent")) as image:
        assert image.digest == checksum
    assert server.requests == []
    assert await digest_of(cache, url) == sha256(Qcow2().build())


@pytest.mark.parametrize("body", [IMAGE, PACKED], ids=["plain", "packed"])
async def test_download_of_a_killed_process_goes_on_where_it_was(
    server: ImageServer, images_dir: Path, cache: ImageCache, body: bytes
) -> None:
    url = server.publish("/x", body)
    await crash(images_dir, url, f"chunk {len(body) // 2}")
    assert await digest_of(cache, url) == sha256(IMAGE)
    offset = int(server.requests[1].headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert offset >= len(body) // 2
    assert left_in(images_dir, "partial") == []


async def test_download_that_was_killed_when_complete_is_not_sent_again(
    server: ImageServer, images_dir: Path, cache: ImageCache
) -> None:
    url = server.publish("/x", IMAGE)
    await crash(images_dir, url, DownloadStep.CHECK)
    assert await digest_of(cache, url) == sha256(IMAGE)
    assert server.requests[1].headers["range"] == f"bytes={len(IMAGE)}-"
    assert len(server.requests) == 2


async def test_download_of_a_killed_process_begins_again_if_the_file_is_another_one(
    server: ImageServer, images_dir: Path, cache: ImageCache
) -> None:
    url = server.publish("/x", IMAGE)
    await crash(images_dir, url, f"chunk {1 << 20}")
    new = server.publish("/x", Qcow2().build())
    assert new == url
    assert await digest_of(cache, url) == sha256(Qcow2().build())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".json", b""),
        (".json", b'{"url":"x"'),
        (".json", b'{"url":"x","etag":null,"total_bytes":null,"boot_id":"x"}'),
        ("", b""),
        ("", IMAGE + b"more than the whole"),
        (".unpacked", b"old"),
    ],
)
async def test_what_cannot_be_gone_on_with_is_begun_again(
    server: ImageServer, images_dir: Path, cache: ImageCache, name: str, content: bytes
) -> None:
    url = server.publish("/x", IMAGE)
    await crash(images_dir, url, f"chunk {1 << 20}")
    (key,) = (path for path in (images_dir / "partial").iterdir() if "." not in path.name)
    key.with_name(key.name + name).write_bytes(content)
    assert await digest_of(cache, url) == sha256(IMAGE)
    assert left_in(images_dir, "partial") == []


async def test_bytes_from_before_a_reboot_are_not_trusted(
    server: ImageServer, images_dir: Path, cache: ImageCache
) -> None:
    url = server.publish("/x", IMAGE)
    await crash(images_dir, url, f"chunk {1 << 20}")
    (sidecar,) = (images_dir / "partial").glob("*.json")
    sidecar.write_bytes(sidecar.read_bytes().replace(b'"boot_id":"', b'"boot_id":"0'))
    assert await digest_of(cache, url) == sha256(IMAGE)
    assert "range" not in server.requests[1].headers


async def test_damaged_part_of_a_compressed_image_is_begun_again(
    server: ImageServer, images_dir: Path, cache: ImageCache
) -> None:
    url = server.publish("/x", PACKED)
    await crash(images_dir, url, f"chunk {1 << 20}")
    (key,) = (path for path in (images_dir / "partial").iterdir() if "." not in path.name)
    with key.open("r+b") as file:
        file.seek(20)
        file.write(b"\xff" * 1000)
    assert await digest_of(cache, url) == sha256(IMAGE)


async def test_link_in_the_place_of_a_partial_file_is_not_followed(
    server: ImageServer, images_dir: Path, cache: ImageCache, tmp_path: Path
) -> None:
    url = server.publish("/x", IMAGE)
    await crash(images_dir, url, f"chunk {1 << 20}")
    (key,) = (path for path in (images_dir / "partial").iterdir() if "." not in path.name)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    key.unlink()
    key.symlink_to(secret)
    assert await digest_of(cache, url) == sha256(IMAGE)
    assert secret.read_bytes() == b"secret"


async def test_many_processes_make_one_download(
    server: ImageServer, images_dir: Path, cache: ImageCache
) -> None:
    resource = Resource(body=IMAGE, etag='"1"', pause_at=1 << 20)
    url = server.put("/x", resource)
    progress: list[tuple[int, int | None]] = []
    async with asyncio.TaskGroup() as group:
        children = [
            group.create_task(command.run(argv(images_dir, url, NEVER), env=_ENV)) for _ in range(3)
        ]
        await asyncio.wait_for(server.arrived.wait(), WAIT_S)
        ours = group.create_task(
            cache.get(
                url,
                task_dir=Path("/nonexistent"),
                on_progress=lambda done, total: progress.append((done, total)),
            )
        )
        # Another process's progress, with its total.
        await until(lambda: (1 << 20, len(IMAGE)) in progress)
        resource.resume.set()
    ours.result().close()
    assert {child.result().stdout.decode().strip() for child in children} == {sha256(IMAGE)}
    bodies = [request for request in server.requests if "if-none-match" not in request.headers]
    assert len(bodies) == 1


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.needs_root
@pytest.mark.parametrize(
    "body", [IMAGE, PACKED, gzip.compress(IMAGE * 8)], ids=["plain", "packed", "long"]
)
@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("size", ["4k", "64k", "1m", "5m"])
async def test_disk_that_fills_up_is_worth_a_retry_and_leaves_room_again(
    tmp_path: Path, server: ImageServer, body: bytes, has_length: bool, size: str
) -> None:
    async with small_disk(tmp_path, size) as disk, TaskOwner() as tasks:
        cache = ImageCache(disk / "images", ImagesConfig(allow_networks=("127.0.0.0/8",)), tasks)
        url = server.put("/x", Resource(body=body, etag='"1"', has_length=has_length))
        if size == "5m" and body is IMAGE:
            assert await digest_of(cache, url) == sha256(IMAGE)
            return
        with pytest.raises(ImageStorageError) as error:
            await digest_of(cache, url)
        assert error.value.retry
        assert left_in(disk / "images", "partial") == []
        assert left_in(disk / "images", "blobs") == []


@pytest.mark.needs_root
@pytest.mark.parametrize("has_length", [True, False])
async def test_room_for_a_larger_image_is_made_of_images_that_nobody_uses(
    tmp_path: Path, server: ImageServer, has_length: bool
) -> None:
    async with small_disk(tmp_path, "16m") as disk, TaskOwner() as tasks:
        config = ImagesConfig(allow_networks=("127.0.0.0/8",))
        keeper = ImageKeeper(disk / "images", disk / "vm", config)
        cache = ImageCache(disk / "images", config, tasks, make_room=keeper.make_room)
        for number in range(3):
            url = server.publish(f"/{number}", bytes([number]) + IMAGE[1:])
            with await cache.get(url, task_dir=Path("/nonexistent")) as image:
                path = image.path
            if number != 1:
                # So long ago that no start is about to ask for it.
                os.utime(path, (number, number))
        large = IMAGE * 2
        url = server.put("/large", Resource(body=large, has_length=has_length))
        assert await digest_of(cache, url) == sha256(large)
        assert {file_name(image.label) for image in keeper.images()} == {"1", "large"}


@pytest.mark.needs_root
async def test_room_that_two_downloads_were_promised_is_made_for_both(
    tmp_path: Path, server: ImageServer
) -> None:
    async with small_disk(tmp_path, "24m") as disk, TaskOwner() as tasks:
        config = ImagesConfig(allow_networks=("127.0.0.0/8",))
        keeper = ImageKeeper(disk / "images", disk / "vm", config)
        cache = ImageCache(
            disk / "images", config, tasks, reserve=Share(pct=20.0), make_room=keeper.make_room
        )
        for number in range(2):
            url = server.publish(f"/{number}", bytes([number]) + IMAGE[1:])
            with await cache.get(url, task_dir=Path("/nonexistent")) as image:
                os.utime(image.path, (number, number))
        # Room for either is there beside the reserve, not for both, which take 16 MiB.
        bodies = [IMAGE + PACKED[: len(PACKED) // 512 * 512], PACKED]
        resources = [Resource(body=body, pause_at=1 << 20) for body in bodies]
        async with asyncio.TaskGroup() as group:
            starts = [
                group.create_task(digest_of(cache, server.put(f"/new-{number}", resource)))
                for number, resource in enumerate(resources)
            ]
            await until(lambda: len(left_in(disk / "images", "partial")) == 5)
            for resource in resources:
                resource.resume.set()
        assert [start.result() for start in starts] == [sha256(bodies[0]), sha256(IMAGE)]


@pytest.mark.needs_root
@pytest.mark.parametrize("step", ["place", "_encode"])
async def test_disk_that_is_full_at_the_very_end_leaves_nothing_half(
    tmp_path: Path, server: ImageServer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with small_disk(tmp_path, "12m") as disk, TaskOwner() as tasks:
        cache = ImageCache(disk / "images", ImagesConfig(allow_networks=("127.0.0.0/8",)), tasks)
        url = server.publish("/x", IMAGE)
        real = getattr(ImageStore, step)

        def fill_up_first(self: ImageStore, *args: object) -> Any:
            with pytest.raises(OSError, match="No space"), (disk / "ballast").open("wb") as file:
                file.write(bytes(16 << 20))
            return real(self, *args)

        with monkeypatch.context() as patched:
            patched.setattr(ImageStore, step, fill_up_first)
            with pytest.raises(ImageStorageError):
                await digest_of(cache, url)
        assert left_in(disk / "images", "partial") == []
        assert left_in(disk / "images", "sources") == []
        (disk / "ballast").unlink()
        assert await digest_of(cache, url) == sha256(IMAGE)


@contextlib.asynccontextmanager
async def small_disk(tmp_path: Path, size: str) -> AsyncGenerator[Path]:
    """Give a tmpfs of a given size."""
    path = tmp_path / "disk"
    path.mkdir()
    await command.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)])
    try:
        yield path
    finally:
        await command.run(["umount", str(path)])
