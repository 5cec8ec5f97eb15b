"""When the cache asks a source, what it asks, what it unpacks: real requests to a local server."""

import asyncio
import gzip
import hashlib
import logging
import lzma
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from fakes.image_server import ImageServer, Resource
from fakes.qcow2_images import Qcow2
from fakes.s3_server import S3Server

from qemu_node.config.images import CredentialConfig, ImagesConfig
from qemu_node.errors import ConfigError, ImageError, JobError
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.images.cache import ImageCache
from qemu_node.images.download.download import PullLimits
from qemu_node.images.errors import (
    ChecksumMismatchError,
    ImageDownloadError,
    ImageRefusedError,
    ImageStorageError,
    UnsafeImageError,
)
from qemu_node.images.http.httpsettings import FetchLimits
from qemu_node.images.openimage import CachedImage
from qemu_node.units import Share

V1 = Qcow2().build()
V2 = Qcow2(virtual_size_bytes=1 << 29).build()
RAW = os.urandom(200 << 9) + bytes(5_000_000 // 512 << 9) + b"end".ljust(512)
BIG = os.urandom(1 << 20) * 4
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}
WAIT_S = 60.0
NO_RESERVE = Share()

MakeCache = Callable[..., ImageCache]


@pytest.fixture
async def server() -> AsyncGenerator[ImageServer]:
    async with ImageServer.running() as server:
        yield server


@pytest.fixture
async def make_cache(tmp_path: Path) -> AsyncGenerator[MakeCache]:
    async with TaskOwner() as tasks:

        def make(
            *, limits: FetchLimits | None = None, reserve: Share = NO_RESERVE, **settings: Any
        ) -> ImageCache:
            config = ImagesConfig(**{"allow_networks": ("127.0.0.0/8",)} | settings)
            quick = limits or FetchLimits(retries=1, backoff_s=0.01)
            return ImageCache(tmp_path / "images", config, tasks, limits=quick, reserve=reserve)

        yield make


class Clock:
    """A clock that tests set."""

    def __init__(self, cache: ImageCache) -> None:
        self.now_s = 1_800_000_000.0
        cache._puller._clock = cache._puller._downloader.clock = self

    def __call__(self) -> float:
        return self.now_s


async def got(cache: ImageCache, source: str, checksum: str | None = None) -> CachedImage:
    with await cache.get(source, checksum=checksum, task_dir=Path("/nonexistent")) as image:
        return image


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# When


async def test_within_the_ttl_nothing_is_asked(make_cache: MakeCache, server: ImageServer) -> None:
    cache = make_cache()
    clock = Clock(cache)
    url = server.publish("/x", V1)
    await got(cache, url)
    server.publish("/x", V2)
    clock.now_s += 299
    assert (await got(cache, url)).digest == sha256(V1)
    assert len(server.requests) == 1
    clock.now_s += 2
    assert (await got(cache, url)).digest == sha256(V2)
    assert len(server.requests) == 2


async def test_an_answer_that_nothing_changed_counts_for_another_ttl(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache()
    clock = Clock(cache)
    url = server.publish("/x", V1)
    for _ in range(3):
        await got(cache, url)
        await got(cache, url)
        clock.now_s += 301
    assert len(server.requests) == 3
    assert all("if-none-match" in request.headers for request in server.requests[1:])


async def test_a_clock_that_was_set_back_makes_the_source_be_asked(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache()
    clock = Clock(cache)
    url = server.publish("/x", V1)
    await got(cache, url)
    clock.now_s -= 86_400 * 365
    server.publish("/x", V2)
    assert (await got(cache, url)).digest == sha256(V2)
    # From then on the new time counts.
    asked = len(server.requests)
    assert (await got(cache, url)).digest == sha256(V2)
    assert len(server.requests) == asked


async def test_within_the_ttl_the_sums_file_is_not_asked_for_either(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache()
    clock = Clock(cache)
    url = server.publish("/x.qcow2", V1)
    sums = server.publish("/SUMS", f"{sha256(V1)[7:]}  x.qcow2\n".encode())
    for _ in range(3):
        await got(cache, url, sums)
    assert len(server.requests) == 2
    server.publish("/x.qcow2", V2)
    server.publish("/SUMS", f"{sha256(V2)[7:]}  x.qcow2\n".encode())
    clock.now_s += 301
    assert (await got(cache, url, sums)).digest == sha256(V2)
    assert len(server.requests) == 4


async def test_a_source_that_is_down_does_not_keep_each_start_waiting(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache()
    clock = Clock(cache)
    url = server.publish("/x", V1)
    await got(cache, url)
    server.put("/x", Resource(status=503))
    clock.now_s += 301
    for _ in range(3):
        assert "HTTP 503" in str((await got(cache, url)).note)
    assert len(server.requests) == 2
    server.publish("/x", V2)
    clock.now_s += 31
    image = await got(cache, url)
    assert (image.digest, image.note) == (sha256(V2), None)


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "[::1].x", "a\\b"])
async def test_a_cached_image_is_used_when_its_source_redirects_to_no_url(
    make_cache: MakeCache, server: ImageServer, host: str
) -> None:
    cache = make_cache(ttl="0s")
    url = server.publish("/x.qcow2", V1)
    first = await got(cache, url)
    server.put("/x.qcow2", Resource(redirect_to=f"http://{host}/x"))
    again = await got(cache, url)
    assert again.digest == first.digest
    assert again.note is not None
    assert "redirects to a URL that cannot be fetched" in again.note


async def test_another_sums_file_is_asked_for_within_the_ttl(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache()
    url = server.publish("/x.qcow2", V1)
    await got(cache, url, server.publish("/SUMS", f"{sha256(V1)[7:]}  x.qcow2\n".encode()))
    other = server.publish("/OTHER", f"{sha256(V2)[7:]}  x.qcow2\n".encode())
    with pytest.raises(ChecksumMismatchError):
        await got(cache, url, other)


# How many


@pytest.mark.parametrize("packing", [None, "gz"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("is_named_first", [True, False])
async def test_a_version_that_is_there_is_used_by_its_digest_whatever_the_source_gives_by_now(
    make_cache: MakeCache, server: ImageServer, packing: str | None, algorithm: str,
    is_named_first: bool,
) -> None:  # fmt: skip
    served = V1 if packing is None else PACK[packing](V1)
    checksum = f"{algorithm}:{hashlib.new(algorithm, served).hexdigest()}"
    url = server.publish("/x", served)
    await got(make_cache(ttl="0s"), url, checksum if is_named_first else None)
    for later in (V2, None):
        if later is None:
            server.put("/x", Resource(status=404))
        else:
            server.publish("/x", later)
            assert (await got(make_cache(ttl="0s"), url)).digest == sha256(V2)
        asked = len(server.requests)
        image = await got(make_cache(ttl="0s"), url, checksum)
        assert (image.digest, image.note) == (sha256(V1), None)
        assert len(server.requests) == asked
    with pytest.raises(ImageError):
        await got(make_cache(ttl="0s"), url, sha256(RAW))


async def test_a_version_that_is_there_does_not_wait_for_the_download_of_another(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache(ttl="0s")
    url = server.publish("/x", V1)
    await got(cache, url)
    paused = Resource(body=V2, etag='"2"', pause_at=1000)
    server.put("/x", paused)
    server.arrived.clear()
    async with asyncio.TaskGroup() as group:
        download = group.create_task(got(cache, url))
        await asyncio.wait_for(server.arrived.wait(), WAIT_S)
        assert (await got(cache, url, sha256(V1))).digest == sha256(V1)
        assert not download.done()
        paused.resume.set()
    assert download.result().digest == sha256(V2)


async def test_a_sums_file_that_goes_back_to_an_earlier_version_is_followed_without_a_download(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache(ttl="0s")
    url = server.publish("/x", V1)
    sums = server.publish("/SUMS", f"{sha256(V1)[7:]}  x\n".encode())
    assert (await got(cache, url, sums)).digest == sha256(V1)
    server.publish("/x", V2)
    assert (await got(cache, url)).digest == sha256(V2)
    downloads = len(server.gets("/x"))
    assert (await got(cache, url, sums)).digest == sha256(V1)
    server.put("/SUMS", Resource(status=500))
    image = await got(cache, url, sums)
    assert image.digest == sha256(V1)
    assert image.note is not None
    assert len(server.gets("/x")) == downloads


async def test_no_more_downloads_than_allowed_are_under_way(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache(downloads=2)
    resources = [Resource(body=BIG, etag='"1"', pause_at=1 << 20) for _ in range(4)]
    urls = [server.put(f"/{n}", resource) for n, resource in enumerate(resources)]
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(got(cache, url)) for url in urls]
        await _until(lambda: len(server.requests) == 2)
        resources[int(server.requests[0].path[1:])].resume.set()
        await _until(lambda: len(server.requests) == 3)
        assert sum(task.done() for task in waiting) == 1
        for resource in resources:
            resource.resume.set()
    assert {task.result().digest for task in waiting} == {sha256(BIG)}


async def test_a_question_whether_an_image_changed_does_not_wait_behind_downloads(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache(downloads=1, ttl="0s")
    cached = server.publish("/cached", V1)
    await got(cache, cached)
    slow = Resource(body=BIG, etag='"1"', pause_at=1 << 20)
    async with asyncio.TaskGroup() as group:
        downloading = group.create_task(got(cache, server.put("/slow", slow)))
        await _until(lambda: len(server.gets("/slow")) == 1)
        assert (await got(cache, cached)).digest == sha256(V1)
        server.publish("/cached", V2)
        changed = group.create_task(got(cache, cached))
        await _until(lambda: len(server.gets("/cached")) == 3)
        assert not changed.done()
        slow.resume.set()
    assert changed.result().digest == sha256(V2)
    assert downloading.result().digest == sha256(BIG)


async def test_a_start_goes_on_with_the_download_that_broke(
    make_cache: MakeCache, server: ImageServer, tmp_path: Path
) -> None:
    resource = Resource(body=BIG, etag='"1"', break_at=[3_000_000], refuse_status=503)
    url = server.put("/x", resource)
    cache = make_cache(limits=FetchLimits(retries=0))
    with pytest.raises(ImageDownloadError):
        await got(cache, url)
    assert len(list((tmp_path / "images" / "partial").iterdir())) == 2
    assert (await got(cache, url)).digest == sha256(BIG)
    offset = int(server.requests[1].headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < offset <= 3_000_000
    assert list((tmp_path / "images" / "partial").iterdir()) == []


async def test_a_download_that_broke_waits_for_its_turn_and_goes_on(
    make_cache: MakeCache, server: ImageServer
) -> None:
    cache = make_cache(downloads=1, ttl="0s", limits=FetchLimits(retries=0))
    url = server.publish("/x", V1)
    await got(cache, url)
    server.put("/x", Resource(body=BIG, etag='"2"', break_at=[3_000_000]))
    assert (await got(cache, url)).note is not None
    slow = Resource(body=BIG, etag='"1"', pause_at=1 << 20)
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(got(cache, server.put("/slow", slow)))
        await _until(lambda: len(server.gets("/slow")) == 1)
        # Another process, say: this one leaves the source alone for a moment.
        cache._puller._failures.clear()
        resumed = group.create_task(got(cache, url))
        await _until(lambda: len(server.gets("/x")) == 3)
        slow.resume.set()
    assert resumed.result().digest == sha256(BIG)
    ranges = [request.headers.get("range") for request in server.gets("/x")[2:]]
    assert len(ranges) == 2
    assert ranges[0] == ranges[1] != None  # noqa: E711


@pytest.mark.parametrize("refused", [Resource(status=404), Resource(body=b"<html>", etag='"2"')])
async def test_a_download_that_broke_is_dropped_once_the_source_has_something_else(
    make_cache: MakeCache, server: ImageServer, tmp_path: Path, refused: Resource
) -> None:
    url = server.put("/x", Resource(body=BIG, etag='"1"', break_at=[3_000_000]))
    cache = make_cache(limits=FetchLimits(retries=0))
    for error in (ImageDownloadError, (ImageRefusedError, UnsafeImageError)):
        with pytest.raises(error):
            await got(cache, url)
        server.put("/x", refused)
    assert list((tmp_path / "images" / "partial").iterdir()) == []


# What


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize(("content", "format_"), [(V1, "qcow2"), (RAW, "raw")])
async def test_compressed_image_is_unpacked_whatever_its_name(
    make_cache: MakeCache, server: ImageServer, suffix: str, content: bytes, format_: str
) -> None:
    packed = PACK[suffix](content)
    cache = make_cache()
    image = await got(cache, server.publish("/disk.img", packed), sha256(packed))
    assert (image.digest, image.format.value) == (sha256(content), format_)
    assert image.path.read_bytes() == content
    assert image.path.stat().st_mode & 0o777 == 0o444
    # The checksum is that of what was served, for ever.
    await server.stop()
    sha512 = f"sha512:{hashlib.sha512(packed).hexdigest()}"
    for checksum in (sha256(packed), sha512):
        assert (await got(cache, server.url("/disk.img"), checksum)).digest == sha256(content)
    with pytest.raises(ImageDownloadError):
        await got(cache, server.url("/disk.img"), sha256(content))


async def test_zeros_of_a_compressed_image_take_no_room(
    make_cache: MakeCache, server: ImageServer
) -> None:
    image = await got(make_cache(), server.publish("/x", gzip.compress(bytes(64 << 20))))
    info = image.path.stat()
    assert info.st_size == 64 << 20
    assert info.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("suffix", PACK)
async def test_bomb_is_refused_and_leaves_nothing(
    make_cache: MakeCache, server: ImageServer, tmp_path: Path, suffix: str
) -> None:
    url = server.publish("/x", PACK[suffix](bytes(64 << 20)))
    with pytest.raises(UnsafeImageError, match=r"/x is refused: it unpacks to more than the 8\.0"):
        await got(make_cache(max_size="8M"), url)
    for kind in ("partial", "blobs"):
        assert list((tmp_path / "images" / kind).iterdir()) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzip.compress(V1)[:-9], "truncated"),
        (zstd.compress(V1) + b"more", "more bytes"),
        (gzip.compress(gzip.compress(V1)), "compressed with gzip"),
        (gzip.compress(b"KDMV" + bytes(508)), "VMDK"),
        (gzip.compress(Qcow2(backing_offset=200, backing_bytes=3).build()), "backing file"),
        (gzip.compress(b""), "empty"),
        (b"\x1f\x8b", "truncated"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 600, "damaged"),
    ],
    # Not the bodies, which have the time in them: two workers must find the same names.
    ids=lambda value: value if isinstance(value, str) else "body",
)
async def test_compressed_image_that_is_none_is_refused(
    make_cache: MakeCache, server: ImageServer, tmp_path: Path, body: bytes, reason: str
) -> None:
    with pytest.raises(UnsafeImageError, match=reason) as error:
        await got(make_cache(), server.publish("/x", body))
    assert str(error.value).startswith(f"image {server.url('/x')} is refused: ")
    assert list((tmp_path / "images" / "partial").iterdir()) == []


async def test_image_whose_tables_are_corrupt_is_refused(
    make_cache: MakeCache, server: ImageServer, tmp_path: Path
) -> None:
    broken = bytearray(V1)
    cluster = int.from_bytes(V1[48:56], "big")  # refcount_table_offset
    broken[cluster : cluster + 8] = (1 << 60).to_bytes(8, "big")
    with pytest.raises(UnsafeImageError, match=r"is refused: (it is corrupt|qemu-img cannot)"):
        await got(make_cache(), server.publish("/x", bytes(broken)))
    for kind in ("partial", "blobs"):
        assert list((tmp_path / "images" / kind).iterdir()) == []


@pytest.mark.parametrize("body", [BIG, gzip.compress(BIG)], ids=["plain", "packed"])
@pytest.mark.parametrize("has_length", [True, False])
async def test_reserve_of_the_disk_is_not_touched(
    make_cache: MakeCache, server: ImageServer, body: bytes, has_length: bool
) -> None:
    url = server.put("/x", Resource(body=body, has_length=has_length))
    with pytest.raises(ImageStorageError, match="has room for 0") as error:
        await got(make_cache(reserve=Share(pct=100.0)), url)
    assert error.value.retry


# Who


@pytest.mark.parametrize("option", ["image", "checksum"])
async def test_what_the_operator_does_not_list_is_not_asked(
    make_cache: MakeCache, server: ImageServer, tmp_path: Path, option: str
) -> None:
    url = server.publish("/x/y", V1)
    cache = make_cache(sources=(f"http://127.0.0.1:{server.port}/x/",))
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    elsewhere = server.publish("/z", V1)
    image, checksum = (elsewhere, None) if option == "image" else (url, elsewhere)
    with pytest.raises(JobError, match=rf"{option} .*not among the sources"):
        await cache.get(image, checksum=checksum, task_dir=tmp_path)
    with pytest.raises(JobError, match=r"checksum .*not among the sources"):
        await cache.get("disk.raw", checksum=elsewhere, task_dir=tmp_path)
    assert server.requests == []
    assert (await got(cache, url)).digest == sha256(V1)


async def test_this_host_is_not_asked_unless_the_operator_says_so(
    make_cache: MakeCache, server: ImageServer
) -> None:
    url = server.publish("/x", V1)
    for settings in (
        {"allow_networks": ()},
        {"allow_networks": ("10.0.0.0/8",), "refuse_networks": ("127.0.0.0/8",)},
    ):
        with pytest.raises(ImageRefusedError, match="loopback"):
            await got(make_cache(**settings), url)
    assert server.requests == []


@pytest.mark.parametrize(
    "settings", [{"sources": ("a b",)}, {"allow_networks": ("x",)}, {"refuse_networks": ("1/1",)}]
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"images\.{next(iter(settings))}"):
        ImageCache(tmp_path, ImagesConfig(**settings), TaskOwner())


async def test_an_object_of_a_bucket_is_an_image(make_cache: MakeCache, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    async with S3Server.running() as s3:
        s3.keys["AKID"] = "s3cret"
        s3.objects["/bucket/a b.qcow2.xz".replace(" ", "+")] = lzma.compress(V1)
        entry = CredentialConfig(
            host="s3://bucket",
            endpoint=s3.url,
            access_key_id="AKID",
            secret_key_file=str(secret),
            namespaces=("team",),
        )
        cache = make_cache(credentials=(entry,))
        pulled = await cache.pull("s3://bucket/a+b.qcow2.xz", namespace="team")
        assert f"sha256:{pulled.version.sha256}" == sha256(V1)
        await cache.pull("s3://bucket/a+b.qcow2.xz", namespace="team")
        assert len(s3.requests) == 1


async def test_a_path_cannot_be_pulled(make_cache: MakeCache) -> None:
    with pytest.raises(JobError, match="nothing to download") as caught:
        await make_cache().pull("/srv/x.raw")
    assert "images.image_paths" in caught.value.explain()


async def test_no_secret_of_a_url_is_logged(
    make_cache: MakeCache, server: ImageServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    resource = Resource(body=BIG, etag='"1"', break_at=[1 << 20], refuse_first=1)
    server.put("/x?token=hunter2", resource)
    cache = make_cache()
    url = f"http://user:hunter2@127.0.0.1:{server.port}/x?token=hunter2"
    await got(cache, url)
    server.put("/x?token=hunter2", Resource(status=404))
    with pytest.raises(ImageError):
        await got(cache, url, sha256(V1))
    everything = [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
    assert any("download interrupted" in line for line in everything)
    assert not [line for line in everything if "hunter2" in line]


def test_limits_of_the_settings_are_the_limits_of_pulls(tmp_path: Path) -> None:
    config = ImagesConfig(ttl="7m", downloads=9, download_timeout="2h", max_size="1G")
    limits: PullLimits = ImageCache(tmp_path, config, TaskOwner())._puller._limits
    assert (limits.ttl_s, limits.downloads, limits.http.limits.total_s) == (420, 9, 7200)
    assert limits.max_bytes == 1 << 30


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


# Presigned URLs


def presigned(n: int | str) -> str:
    return f"/disk.qcow2?X-Amz-Credential=AKID&X-Amz-Date={n}&X-Amz-Signature=abc{n}"


async def test_a_new_signature_of_an_object_does_not_download_it_again(
    server: ImageServer, make_cache: Callable[..., ImageCache]
) -> None:
    cache = make_cache()
    first, second = (server.publish(presigned(n), V1) for n in (1, 2))
    image = await got(cache, first)
    assert (await got(cache, second)).path == image.path
    assert (await got(cache, second, sha256(V1))).path == image.path
    assert (await got(cache, first, sha256(V1))).path == image.path
    assert len(server.gets(presigned(1))) == 1
    (asked,) = server.gets(presigned(2))
    assert "if-none-match" in asked.headers
    assert "abc" not in image.origin


@pytest.mark.parametrize("checksum", [None, sha256(V1)])
@pytest.mark.parametrize("status", [403, 404, 503])
async def test_a_signature_that_the_source_does_not_accept_gets_no_cached_image(
    server: ImageServer, make_cache: Callable[..., ImageCache], status: int, checksum: str | None
) -> None:
    cache = make_cache(limits=FetchLimits(retries=0))
    await got(cache, server.publish(presigned(1), V1))
    forged = server.put(presigned("forged"), Resource(status=status))
    with pytest.raises(ImageError, match=f"HTTP {status}"):
        await got(cache, forged, checksum)
    await server.stop()
    with pytest.raises(ImageError, match="no connection"):
        await got(cache, forged, checksum)
    assert (await got(cache, server.url(presigned(1)), checksum)).note is None


async def test_a_forged_signature_does_not_join_the_download_of_another_one(
    server: ImageServer, make_cache: Callable[..., ImageCache]
) -> None:
    cache = make_cache()
    resource = Resource(body=V1, etag='"1"', pause_at=100)
    url = server.put(presigned(1), resource)
    forged = server.put(presigned("forged"), Resource(status=403))
    async with asyncio.TaskGroup() as group:
        right = group.create_task(got(cache, url))
        await server.arrived.wait()
        wrong = group.create_task(refusal(cache, forged))
        resource.resume.set()
    assert right.result().digest == sha256(V1)
    assert "HTTP 403" in wrong.result()


async def refusal(cache: ImageCache, url: str) -> str:
    with pytest.raises(ImageError) as error:
        await got(cache, url)
    return str(error.value)
