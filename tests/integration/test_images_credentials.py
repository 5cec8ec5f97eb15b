"""The image cache with sources that ask who is there: whose images are whose."""

import hashlib
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.image_server import ImageServer, Resource
from fakes.qcow2_images import Qcow2
from fakes.registry import BlobHost, Registry, TokenService
from fakes.s3_server import S3Server

from qemu_node.config.images import CredentialConfig, ImagesConfig
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.images.cache import ImageCache
from qemu_node.images.errors import ChecksumMismatchError, ImageRefusedError
from qemu_node.images.http.httpsettings import FetchLimits

V1 = Qcow2().build()
V2 = Qcow2(virtual_size_bytes=1 << 29).build()
PASSWORD = "hunter2"
QUICK = FetchLimits(retries=1, backoff_s=0.01)

MakeCache = Callable[..., ImageCache]


@pytest.fixture
async def tasks() -> AsyncGenerator[TaskOwner]:
    async with TaskOwner() as tasks:
        yield tasks


@pytest.fixture
async def registry() -> AsyncGenerator[Registry]:
    async with Registry.running() as registry, TokenService.running() as tokens:
        tokens.users["ci"] = PASSWORD
        registry.tokens = tokens
        yield registry


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def make_cache(tmp_path: Path, tasks: TaskOwner) -> MakeCache:
    """Return a cache on the same directory each time, as a restarted driver has it."""

    def make(*credentials: CredentialConfig, ttl: str = "0s") -> ImageCache:
        config = ImagesConfig(
            allow_networks=("127.0.0.0/8",), ttl=ttl, max_size="8G", credentials=credentials
        )
        return ImageCache(tmp_path / "images", config, tasks, limits=QUICK)

    return make


async def got(cache: ImageCache, source: str, namespace: str | None = None) -> bytes:
    with await cache.get(source, task_dir=Path("/nonexistent"), namespace=namespace) as image:
        return os.pread(image.fd, 1 << 20, 0)


async def note(cache: ImageCache, source: str) -> str | None:
    with await cache.get(source, task_dir=Path("/nonexistent")) as image:
        return image.note


def blob_requests(registry: Registry) -> int:
    return sum("/blobs/" in request.path for request in registry.requests)


def login(host: str, path: Path, **more: Any) -> CredentialConfig:
    return CredentialConfig(host=host, username="ci", password_file=str(path), **more)


async def test_a_namespace_gets_no_image_of_anothers_credentials(
    make_cache: MakeCache, registry: Registry, secret_file: Path
) -> None:
    registry.push("team/image:1", V1)
    source = f"oci://{registry.host}/team/image:1"
    cache = make_cache(login(registry.host, secret_file, namespaces=("team",)), ttl="1h")
    assert await got(cache, source, "team") == V1
    for namespace in ("other", None):
        with pytest.raises(ImageRefusedError) as error:
            await got(cache, source, namespace)
        assert error.value.is_denial
    assert await got(cache, source, "team") == V1
    assert blob_requests(registry) == 1


async def test_a_namespace_gets_no_web_image_of_anothers_credentials(
    make_cache: MakeCache, secret_file: Path
) -> None:
    async with ImageServer.running() as server:
        url = server.put("/x.qcow2", Resource(body=V1, password=PASSWORD))
        host = f"127.0.0.1:{server.port}"
        cache = make_cache(login(host, secret_file, namespaces=("team",)), ttl="1h")
        assert await got(cache, url, "team") == V1
        with pytest.raises(ImageRefusedError):
            await got(cache, url, "other")


async def test_a_tag_is_asked_for_its_manifest_and_downloaded_when_that_changed(
    make_cache: MakeCache, registry: Registry, secret_file: Path
) -> None:
    registry.push("team/image:1", V1)
    source = f"oci://{registry.host}/team/image:1"
    cache = make_cache(login(registry.host, secret_file))
    assert await got(cache, source) == await got(cache, source) == V1
    assert blob_requests(registry) == 1
    registry.push("team/image:1", V2)
    assert await got(cache, source) == V2
    assert blob_requests(registry) == 2


async def test_an_image_by_digest_is_asked_for_once(
    make_cache: MakeCache, registry: Registry, secret_file: Path
) -> None:
    pushed = registry.push("team/image:1", V1)
    source = f"oci://{registry.host}/team/image@{pushed.digest}"
    assert await got(make_cache(login(registry.host, secret_file)), source) == V1
    asked = len(registry.requests)
    assert await got(make_cache(login(registry.host, secret_file)), source) == V1
    assert len(registry.requests) == asked


async def test_a_tag_that_moved_on_from_a_checksum_is_not_downloaded(
    make_cache: MakeCache, registry: Registry, secret_file: Path
) -> None:
    registry.push("team/image:1", V2)
    cache = make_cache(login(registry.host, secret_file))
    source, wanted = f"oci://{registry.host}/team/image:1", hashlib.sha256(V1).hexdigest()
    with pytest.raises(ChecksumMismatchError, match=wanted):
        await cache.get(source, checksum=f"sha256:{wanted}", task_dir=Path("/nonexistent"))
    assert blob_requests(registry) == 0


async def test_a_layer_that_is_not_what_its_digest_says_is_refused(
    make_cache: MakeCache, registry: Registry, secret_file: Path, tmp_path: Path
) -> None:
    registry.push("team/image:1", V1)
    for digest in registry.blobs:
        registry.blobs[digest] = V2
    with pytest.raises(ChecksumMismatchError, match="not the image that its checksum names"):
        await got(
            make_cache(login(registry.host, secret_file)), f"oci://{registry.host}/team/image:1"
        )
    assert list((tmp_path / "images" / "blobs").iterdir()) == []


async def test_a_secret_that_is_being_replaced_leaves_the_cached_image(
    make_cache: MakeCache, secret_file: Path
) -> None:
    async with S3Server.running() as server:
        server.keys["AKID"] = PASSWORD
        server.objects["/bucket/x.qcow2"] = V1
        cache = make_cache(
            CredentialConfig(
                host="s3://bucket",
                endpoint=server.url,
                access_key_id="AKID",
                secret_key_file=str(secret_file),
            )
        )
        assert await got(cache, "s3://bucket/x.qcow2") == V1
        secret_file.rename(secret_file.with_suffix(".old"))
        said = await note(cache, "s3://bucket/x.qcow2")
        assert said is not None
        assert "using the cached image" in said
        assert "cannot be read" in said


async def test_no_secret_is_left_in_the_cache(
    make_cache: MakeCache,
    registry: Registry,
    secret_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", logger="qemu_node")
    async with BlobHost.running() as blobs:
        registry.blob_host = blobs
        registry.push("team/image:1", V1)
        cache = make_cache(login(registry.host, secret_file))
        assert await got(cache, f"oci://{registry.host}/team/image:1") == V1
    assert registry.tokens is not None
    secrets = [PASSWORD, "X-Amz-Signature", *registry.tokens.tokens]
    written = [path for path in (tmp_path / "images").rglob("*") if path.is_file()]
    for secret in secrets:
        assert secret not in caplog.text + str([record.__dict__ for record in caplog.records])
        assert not any(secret.encode() in path.read_bytes() for path in written)
