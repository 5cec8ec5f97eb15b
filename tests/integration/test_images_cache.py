"""The image cache against a server that is slow, changing, hostile or down, and against itself."""

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fakes.image_server import ImageServer, Resource
from fakes.qcow2_images import Qcow2

from qemu_node.config.images import ImagesConfig
from qemu_node.errors import ImageError, JobError
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.process import command, pidfd
from qemu_node.images.cache import ImageCache
from qemu_node.images.download.pull import Pulled, Puller
from qemu_node.images.errors import (
    ChecksumMismatchError,
    ImageDownloadError,
    ImageGoneError,
    ImageRefusedError,
    ImageStorageError,
    UnsafeImageError,
)
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.images.http.httpsettings import FetchLimits
from qemu_node.images.keeper import ImageKeeper
from qemu_node.images.openimage import CachedImage

V1 = Qcow2().build()
V2 = Qcow2(virtual_size_bytes=1 << 29).build()
BIG = os.urandom(1 << 20) * 4
WAIT_S = 60.0
QUICK = FetchLimits(retries=2, backoff_s=0.01)


@pytest.fixture
async def server() -> AsyncGenerator[ImageServer]:
    async with ImageServer.running() as server:
        yield server


@pytest.fixture
async def tasks() -> AsyncGenerator[TaskOwner]:
    async with TaskOwner() as tasks:
        yield tasks


@pytest.fixture
def images_dir(tmp_path: Path) -> Path:
    return tmp_path / "images"


def config(**settings: Any) -> ImagesConfig:
    """The settings of a node whose sources are on this host, asked at each start."""
    return ImagesConfig(**{"allow_networks": ("127.0.0.0/8",), "ttl": "0s"} | settings)


@pytest.fixture
def cache(images_dir: Path, tasks: TaskOwner) -> ImageCache:
    return ImageCache(images_dir, config(max_size="8G"), tasks, limits=QUICK)


@pytest.fixture
def keeper(images_dir: Path) -> ImageKeeper:
    return ImageKeeper(images_dir, images_dir.parent / "vm", ImagesConfig(low_space="0%"))


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def got(cache: ImageCache, url: str, checksum: str | None = None) -> CachedImage:
    """Get an image and close it, for tests that look at what is said of it."""
    with await cache.get(url, checksum=checksum, task_dir=Path("/nonexistent")) as image:
        return image


async def give_up_once_it_arrives(
    getting: Coroutine[Any, Any, CachedImage], server: ImageServer
) -> None:
    """Cancel a start's wait when the server has sent a part of the image."""
    start = asyncio.ensure_future(getting)
    await asyncio.wait_for(server.arrived.wait(), WAIT_S)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start


def files_below(directory: Path, *kinds: str) -> list[str]:
    return [path.name for kind in kinds for path in (directory / kind).iterdir()]


def names_or_contents_with(directory: Path, secret: str) -> list[Path]:
    return [
        path
        for path in directory.rglob("*")
        if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes())
    ]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_image_is_downloaded_verified_and_open(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/a/debian.qcow2", V1)
    with await cache.get(
        url, checksum=f"sha256:{sha256(V1)}", task_dir=Path("/nonexistent")
    ) as image:
        assert os.pread(image.fd, len(V1) + 1, 0) == V1
        assert image.path.read_bytes() == V1
        assert image.path.stat().st_mode & 0o777 == 0o444
        assert image.format is ImageFormat.QCOW2
        assert image.virtual_size_bytes == 1 << 30
        assert (image.origin, image.digest) == (url, f"sha256:{sha256(V1)}")
        assert image.note is None
    assert image.fd == -1


async def test_many_waiters_make_one_request(cache: ImageCache, server: ImageServer) -> None:
    url = server.publish("/x", V1)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(got(cache, url)) for _ in range(20)]
    assert {task.result().path for task in waiting} == {waiting[0].result().path}
    assert len(server.requests) == 1


async def test_unchanged_image_is_asked_for_and_not_sent_again(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/x", V1)
    first, second = await got(cache, url), await got(cache, url)
    assert first.path == second.path
    assert "if-none-match" in server.requests[1].headers


async def test_changed_image_goes_beside_the_old_one(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/x", V1)
    with await cache.get(url, task_dir=Path("/nonexistent")) as old:
        server.publish("/x", V2)
        new = await got(cache, url)
        assert new.path != old.path
        assert os.pread(old.fd, len(V1), 0) == V1
        assert old.path.read_bytes() == V1
    server.publish("/x", V1)
    assert (await got(cache, url)).path == old.path


async def test_changing_image_is_seen_by_its_date_where_there_is_no_etag(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.put("/x", Resource(body=V1, last_modified="monday"))
    first = await got(cache, url)
    assert (await got(cache, url)).digest == first.digest
    server.put("/x", Resource(body=V2, last_modified="tuesday"))
    assert (await got(cache, url)).digest != first.digest


async def test_source_without_validators_is_fetched_again_and_swapped_only_if_it_differs(
    cache: ImageCache, server: ImageServer, keeper: ImageKeeper
) -> None:
    url = server.put("/x", Resource(body=V1))
    first = (await got(cache, url)).path.stat()
    [before] = keeper.images()
    again = (await got(cache, url)).path.stat()
    assert len(server.requests) == 2
    assert again.st_ino == first.st_ino
    [after] = keeper.images()
    assert after.sources[0].record.fetched_at == before.sources[0].record.fetched_at
    server.put("/x", Resource(body=V2))
    assert (await got(cache, url)).digest == f"sha256:{sha256(V2)}"


async def test_cached_image_is_served_with_a_note_while_the_source_is_down(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/x", V1)
    await got(cache, url)
    await server.stop()
    image = await got(cache, url)
    assert image.digest == f"sha256:{sha256(V1)}"
    assert image.note is not None
    assert "using the cached image of 20" in image.note
    assert "no connection" in image.note


@pytest.mark.parametrize(
    "resource",
    [
        Resource(status=500),
        Resource(status=404),
        Resource(body=V2, break_after=1000),
        Resource(body=V2, etag='"2"', content_length=1 << 62),
        Resource(redirect_to="ftp://host/x"),
    ],
    ids=str,
)
async def test_cached_image_is_served_while_the_source_is_broken(
    cache: ImageCache, server: ImageServer, images_dir: Path, resource: Resource
) -> None:
    url = server.publish("/x", V1)
    await got(cache, url)
    server.put("/x", resource)
    image = await got(cache, url)
    assert image.digest == f"sha256:{sha256(V1)}"
    assert image.note is not None
    assert files_below(images_dir, "partial") == []


@pytest.mark.parametrize("status", [401, 403])
async def test_cached_image_is_not_served_once_permission_is_withdrawn(
    cache: ImageCache, server: ImageServer, status: int
) -> None:
    url = server.publish("/x", V1)
    await got(cache, url)
    server.put("/x", Resource(status=status))
    with pytest.raises(ImageRefusedError, match=f"HTTP {status}"):
        await got(cache, url)


async def test_image_got_with_a_password_is_not_given_without(
    cache: ImageCache, server: ImageServer, images_dir: Path
) -> None:
    server.put("/x", Resource(body=V1, etag='"1"', password="hunter2"))
    await got(cache, f"http://user:hunter2@127.0.0.1:{server.port}/x")
    with pytest.raises(ImageRefusedError):
        await got(cache, server.url("/x"))
    assert not names_or_contents_with(images_dir, "hunter2")


async def test_failed_first_download_leaves_nothing_and_a_later_one_works(
    cache: ImageCache, server: ImageServer, images_dir: Path
) -> None:
    url = server.put("/x", Resource(body=V1, break_after=1000))
    with pytest.raises(ImageDownloadError):
        await got(cache, url)
    assert files_below(images_dir, "blobs", "sources", "partial") == []
    server.publish("/x", V1)
    assert (await got(cache, url)).digest == f"sha256:{sha256(V1)}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (Qcow2(backing_offset=200, backing_bytes=11).build(), "backing file"),
        (Qcow2(incompatible=1 << 2).build(), "external data file"),
        (Qcow2(virtual_size_bytes=9 << 30, l1_entries=20).build(), "virtual size"),
        (V1[: 3 << 16], "truncated"),
        (b"KDMV" + bytes(508), "VMDK"),
        (b"<html>sign in</html>", "web page"),
        (b"", "empty"),
    ],
    ids=["backing", "data-file", "huge", "cut", "vmdk", "html", "empty"],
)
async def test_dangerous_image_is_refused_and_not_kept(
    cache: ImageCache, server: ImageServer, images_dir: Path, body: bytes, reason: str
) -> None:
    url = server.publish("/x", body)
    with pytest.raises(UnsafeImageError, match=reason) as error:
        await got(cache, url)
    assert str(error.value).startswith(f"image {url} is refused: ")
    assert files_below(images_dir, "blobs", "sources", "partial") == []


async def test_wrong_bytes_are_refused_and_not_kept(
    cache: ImageCache, server: ImageServer, images_dir: Path
) -> None:
    url = server.publish("/x", V1)
    with pytest.raises(ChecksumMismatchError, match=sha256(V1)):
        await got(cache, url, f"sha256:{sha256(V2)}")
    assert files_below(images_dir, "blobs", "sources", "partial") == []


async def test_image_with_the_right_digest_is_served_without_any_request(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/x", V1)
    sha512 = f"sha512:{hashlib.sha512(V1).hexdigest()}"
    await got(cache, url)
    await server.stop()
    for checksum in (f"sha256:{sha256(V1)}", sha512):
        assert (await got(cache, url, checksum)).note is None


async def test_cached_image_is_not_served_for_another_digest(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/x", V1)
    await got(cache, url)
    await server.stop()
    with pytest.raises(ImageDownloadError):
        await got(cache, url, f"sha256:{sha256(V2)}")


async def test_sums_file_decides_which_version_is_used(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/a/x.qcow2", V1)
    sums = server.publish("/a/SHA512SUMS", f"{hashlib.sha512(V1).hexdigest()}  x.qcow2\n".encode())
    first = await got(cache, url, sums)
    assert (await got(cache, url, sums)).path == first.path
    assert len(server.gets("/a/x.qcow2")) == 1
    server.publish("/a/x.qcow2", V2)
    server.publish("/a/SHA512SUMS", f"{hashlib.sha512(V2).hexdigest()}  x.qcow2\n".encode())
    assert (await got(cache, url, sums)).digest == f"sha256:{sha256(V2)}"


async def test_image_that_does_not_match_its_sums_file_is_refused(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/a/x.qcow2", V1)
    sums = server.publish("/a/SHA256SUMS", f"{sha256(V2)} *x.qcow2\n".encode())
    with pytest.raises(ChecksumMismatchError):
        await got(cache, url, sums)


async def test_image_verified_before_is_served_while_its_sums_file_is_down(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/a/x.qcow2", V1)
    sums = server.publish("/a/SUMS", f"SHA256 (x.qcow2) = {sha256(V1)}\n".encode())
    await got(cache, url, sums)
    await server.stop()
    image = await got(cache, url, sums)
    assert image.note is not None
    assert "/a/SUMS" in image.note


async def test_image_never_verified_is_not_served_while_the_sums_file_is_down(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/a/x.qcow2", V1)
    await got(cache, url)
    with pytest.raises(ImageRefusedError, match="SUMS"):
        await got(cache, url, server.url("/a/SUMS"))


async def test_image_that_its_sums_file_does_not_list_is_refused(
    cache: ImageCache, server: ImageServer
) -> None:
    url = server.publish("/a/x.qcow2", V1)
    sums = server.publish("/a/SUMS", f"{sha256(V1)}  other.qcow2\n".encode())
    with pytest.raises(ImageError, match=r"lists no .*x\.qcow2"):
        await got(cache, url, sums)


async def test_download_goes_on_when_its_start_gives_up_and_a_later_one_joins(
    cache: ImageCache, server: ImageServer
) -> None:
    resource = Resource(body=BIG, pause_at=2 << 20, etag='"1"')
    url = server.put("/x", resource)
    await give_up_once_it_arrives(got(cache, url), server)
    async with asyncio.TaskGroup() as group:
        joined = group.create_task(got(cache, url))
        resource.resume.set()
    assert joined.result().digest == f"sha256:{sha256(BIG)}"
    assert len(server.requests) == 1


async def test_download_ends_by_itself_when_nobody_waits(
    cache: ImageCache, server: ImageServer, tasks: TaskOwner, keeper: ImageKeeper
) -> None:
    resource = Resource(body=BIG, pause_at=1 << 20, etag='"1"')
    url = server.put("/x", resource)
    await give_up_once_it_arrives(got(cache, url), server)
    resource.resume.set()
    await until(lambda: len(tasks) == 0)
    assert keeper.images()[0].origins == (url,)


async def test_waiters_hear_of_progress_only_while_there_is_some(
    cache: ImageCache, server: ImageServer
) -> None:
    resource = Resource(body=BIG, pause_at=3 << 20, etag='"1"')
    url = server.put("/x", resource)
    heard: list[tuple[int, int | None]] = []

    def on_progress(done_bytes: int, total_bytes: int | None) -> None:
        heard.append((done_bytes, total_bytes))
        if done_bytes >= 2 << 20:
            resource.resume.set()

    for _ in range(2):
        with await cache.get(url, task_dir=Path("/nonexistent"), on_progress=on_progress):
            pass
    assert heard[-1] == (len(BIG), len(BIG))
    assert heard == sorted(heard)
    assert sum(done == len(BIG) for done, _ in heard) == 1


async def test_closing_the_node_ends_downloads_and_leaves_nothing(
    images_dir: Path, server: ImageServer
) -> None:
    url = server.put("/x", Resource(body=BIG, pause_at=2 << 20))
    tasks = TaskOwner()
    cache = ImageCache(images_dir, config(), tasks)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_failure(got(cache, url)))
        await asyncio.wait_for(server.arrived.wait(), WAIT_S)
        await tasks.aclose()
    assert "is shutting down" in str(waiting.result())
    assert files_below(images_dir, "blobs", "sources", "partial") == []


async def _failure(getting: Awaitable[CachedImage]) -> ImageError:
    with pytest.raises(ImageError) as error:
        await getting
    return error.value


CHILD = """
import asyncio, sys
from pathlib import Path
from qemu_node.config.images import ImagesConfig
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.images.cache import ImageCache

async def main():
    async with TaskOwner() as tasks:
        config = ImagesConfig(allow_networks=("127.0.0.0/8",))
        cache = ImageCache(Path(sys.argv[1]), config, tasks)
        with await cache.get(sys.argv[2], task_dir=Path("/nonexistent")) as image:
            print(image.digest)

asyncio.run(main())
"""


async def test_two_processes_make_one_download(
    cache: ImageCache, server: ImageServer, images_dir: Path
) -> None:
    resource = Resource(body=BIG, pause_at=1 << 20, etag='"1"')
    url = server.put("/x", resource)
    argv = [sys.executable, "-c", CHILD, str(images_dir), url]
    async with asyncio.TaskGroup() as group:
        child = group.create_task(command.run(argv))
        await asyncio.wait_for(server.arrived.wait(), WAIT_S)
        ours = group.create_task(got(cache, url))
        await until(lambda: cache._pulls != {})
        resource.resume.set()
    assert child.result().stdout.decode().strip() == ours.result().digest
    bodies = [request for request in server.requests if "if-none-match" not in request.headers]
    assert len(bodies) == 1


async def test_killed_download_is_cleaned_up_and_done_again(
    cache: ImageCache,
    server: ImageServer,
    images_dir: Path,
    keeper: ImageKeeper,
    tmp_path: Path,
) -> None:
    # No ETag: nobody can go on with what is there.
    url = server.put("/x", Resource(body=BIG, pause_at=2 << 20))
    with (tmp_path / "stderr").open("wb") as stderr:
        child = command.spawn(
            [sys.executable, "-c", CHILD, str(images_dir), url], stderr_fd=stderr.fileno()
        )
    await until(lambda: len(list(images_dir.glob("partial/*"))) == 2)
    keeper.sweep()
    assert len(files_below(images_dir, "partial")) == 2
    pidfd.send_signal(child.process, signal.SIGKILL)
    # Reaped, not only a zombie: until then a thread of it may still hold the lock.
    await until(lambda: child.exit_status() == -signal.SIGKILL)
    keeper.sweep()
    assert files_below(images_dir, "blobs", "sources", "partial", "locks") == []
    server.publish("/x", BIG)
    assert (await got(cache, url)).digest == f"sha256:{sha256(BIG)}"


@pytest.mark.needs_root
async def test_full_disk_is_worth_a_retry_and_leaves_nothing(
    tmp_path: Path, server: ImageServer, tasks: TaskOwner
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    await command.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)])
    try:
        cache = ImageCache(small / "images", config(), tasks)
        for has_length in (True, False):
            url = server.put("/x", Resource(body=BIG, has_length=has_length))
            with pytest.raises(ImageStorageError) as error:
                await got(cache, url)
            assert error.value.retry
            assert "free space" in error.value.explain()
            assert files_below(small / "images", "blobs", "sources", "partial") == []
        assert (await got(cache, server.publish("/x", V1))).format is ImageFormat.QCOW2
    finally:
        await command.run(["umount", str(small)])


async def test_image_in_the_task_directory_is_used_in_place(
    cache: ImageCache, tmp_path: Path
) -> None:
    (tmp_path / "task" / "local").mkdir(parents=True)
    path = tmp_path / "task" / "local" / "x.raw"
    path.write_bytes(bytes(4096))
    checksum = f"sha256:{sha256(bytes(4096))}"
    task_dir = tmp_path / "task"
    with await cache.get("local/x.raw", checksum=checksum, task_dir=task_dir) as image:
        assert (image.path, image.format) == (path, ImageFormat.RAW)
        assert (image.virtual_size_bytes, image.digest) == (4096, None)
    with pytest.raises(ChecksumMismatchError):
        await cache.get("local/x.raw", checksum=f"sha256:{sha256(V1)}", task_dir=task_dir)
    path.write_bytes(Qcow2(backing_offset=200, backing_bytes=3).build())
    with pytest.raises(UnsafeImageError, match="backing file"):
        await cache.get("local/x.raw", task_dir=task_dir)


async def test_open_descriptors_do_not_pile_up(
    cache: ImageCache, server: ImageServer, tmp_path: Path
) -> None:
    url = server.publish("/x", V1)
    await got(cache, url)
    (tmp_path / "bad").write_bytes(b"KDMV")
    before = open_descriptors()
    for _ in range(5):
        await got(cache, url)
        with pytest.raises(ImageError):
            await got(cache, url, f"sha256:{'0' * 64}")
        with pytest.raises(UnsafeImageError):
            await cache.get("bad", task_dir=tmp_path)
    await until(lambda: open_descriptors() <= before)


async def test_keeper_names_what_is_cached(
    cache: ImageCache, server: ImageServer, keeper: ImageKeeper
) -> None:
    assert keeper.images() == []
    await got(cache, server.publish("/b?token=1", V1))
    await got(cache, server.publish("/a", bytes(512)))
    first, second = keeper.images()
    assert first.origins == (server.url("/a"),)
    assert first.blob.format is ImageFormat.RAW
    assert second.origins == (server.url("/b?…"),)
    record = second.sources[0].record
    assert (second.blob.size_bytes, record.virtual_size_bytes) == (len(V1), 1 << 30)


async def test_pull_brings_an_image_into_the_cache_and_opens_nothing(
    cache: ImageCache, server: ImageServer, keeper: ImageKeeper
) -> None:
    pulled = await cache.pull(server.publish("/x", V1), checksum=f"sha256:{sha256(V1)}")
    assert keeper.images()[0].blob.sha256 == pulled.version.sha256
    with pytest.raises(JobError, match="is a path"):
        await cache.pull("local/x.qcow2")


async def test_image_that_goes_before_it_is_opened_is_gone_and_can_be_had_again(
    cache: ImageCache, server: ImageServer, keeper: ImageKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.publish("/x", V1)
    pull_image = Puller.pull

    async def lose(self: Puller, *args: Any) -> Pulled:
        pulled = await pull_image(self, *args)
        keeper.remove(keeper.images()[0], force=True)
        return pulled

    with monkeypatch.context() as broken:
        broken.setattr(Puller, "pull", lose)
        with pytest.raises(ImageGoneError) as error:
            await got(cache, url)
    assert error.value.retry
    assert (await got(cache, url)).digest == f"sha256:{sha256(V1)}"
