"""Images out of registries: real requests, to registries that keep the rules and that do not."""

import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from fakes.http_peer import HttpPeer
from fakes.memory_sink import MemorySink
from fakes.registry import OCI_INDEX, OCI_MANIFEST, BlobHost, Registry, TokenService, digest_of

from qemu_node.config.images import CredentialConfig
from qemu_node.images.errors import ChecksumMismatchError, ImageRefusedError
from qemu_node.images.http.address import AddressPolicy
from qemu_node.images.http.httpsettings import FetchLimits, HttpSettings
from qemu_node.images.http.small import fetch_small
from qemu_node.images.http.transfer import transfer
from qemu_node.images.registry.oci import resolve_oci
from qemu_node.images.source.credentials import Credential, CredentialStore
from qemu_node.images.source.name import OciSource
from qemu_node.images.source.remote import Located

DISK = bytes(range(256)) * 512
LIMITS = FetchLimits(retries=0)
LOOPBACK = AddressPolicy(allow=(ip_network("127.0.0.0/8"),))
HTTP = HttpSettings(limits=LIMITS, addresses=LOOPBACK)
PASSWORD = "hunter2"


@pytest.fixture
async def registry() -> AsyncGenerator[Registry]:
    async with Registry.running() as registry:
        yield registry


@pytest.fixture
async def tokens(registry: Registry) -> AsyncGenerator[TokenService]:
    async with TokenService.running() as tokens:
        tokens.users["ci"] = PASSWORD
        registry.tokens = tokens
        yield tokens


@pytest.fixture
def credential(registry: Registry, tmp_path: Path) -> Callable[..., Credential]:
    path = tmp_path / "secret"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o600)

    def make(**settings: Any) -> Credential:
        settings = settings or {"username": "ci", "password_file": str(path)}
        entry = CredentialConfig(host=registry.host, **settings)
        found = CredentialStore([entry]).find(registry.host, None)
        assert found is not None
        return found

    return make


async def resolve(
    registry: Registry,
    reference: str = "1",
    credential: Credential | None = None,
    *,
    addresses: AddressPolicy = LOOPBACK,
) -> Located:
    source = OciSource(registry.host, "team/image", reference)
    small = partial(fetch_small, http=HttpSettings(limits=LIMITS, addresses=addresses))
    blob = await resolve_oci(source, credential, fetch_small=small)
    assert blob is not None
    return blob


async def is_still(registry: Registry, digest: str, credential: Credential | None = None) -> bool:
    source = OciSource(registry.host, "team/image", "1")
    small = partial(fetch_small, http=HTTP)
    blob = await resolve_oci(source, credential, fetch_small=small, known=digest)
    return blob is None


def asked(registry: Registry) -> list[str]:
    """Return the methods of the requests since the last time."""
    methods = [request.method for request in registry.requests]
    registry.requests.clear()
    return methods


async def fetched(blob: Located) -> bytes:
    sink = MemorySink()
    await transfer(blob.file, sink, max_bytes=1 << 30, http=HTTP)
    return bytes(sink.content)


def secrets_seen(*peers: HttpPeer) -> list[str]:
    return [
        request.headers["authorization"]
        for peer in peers
        for request in peer.requests
        if "authorization" in request.headers
    ]


async def test_an_image_comes_out_of_an_open_registry(registry: Registry) -> None:
    pushed = registry.push("team/image:1", DISK)
    blob = await resolve(registry)
    assert blob.version == pushed.digest
    assert str(blob.checksum) == f"sha256:{hashlib.sha256(DISK).hexdigest()}"
    assert blob.file.size_bytes == len(DISK)
    assert await fetched(blob) == DISK


async def test_an_image_is_had_by_digest(registry: Registry) -> None:
    pushed = registry.push("team/image:1", DISK)
    blob = await resolve(registry, pushed.digest)
    assert await fetched(blob) == DISK


async def test_of_an_index_the_image_of_this_machine_is_had(registry: Registry) -> None:
    other = registry.push("team/image:arm", b"arm")
    ours = registry.push("team/image:amd", DISK)
    index = registry.push_index(
        "team/image:1", {("linux", "arm64"): other, ("linux", "amd64"): ours}
    )
    blob = await resolve(registry)
    assert blob.version == index.digest
    assert await fetched(blob) == DISK


async def test_a_new_image_under_a_tag_is_another_version(registry: Registry) -> None:
    registry.push("team/image:1", DISK)
    before = await resolve(registry)
    registry.push("team/image:1", DISK + b"more")
    after = await resolve(registry)
    assert before.version != after.version
    assert before.checksum != after.checksum


async def test_whether_a_tag_is_unchanged_is_asked_without_a_pull(registry: Registry) -> None:
    pushed = registry.push("team/image:1", DISK)
    assert await is_still(registry, pushed.digest)
    assert asked(registry) == ["HEAD"]
    assert not await is_still(registry, digest_of(b"former"))
    assert asked(registry) == ["HEAD", "GET"]


@pytest.mark.parametrize("status", [403, 404, 405, 500, 501])
async def test_a_registry_without_head_is_asked_by_get(registry: Registry, status: int) -> None:
    pushed = registry.push("team/image:1", DISK)
    registry.head_status = status
    assert await is_still(registry, pushed.digest)
    assert asked(registry) == ["HEAD", "GET"]


async def test_a_private_tag_is_asked_with_the_password(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    pushed = registry.push("team/image:1", DISK)
    assert await is_still(registry, pushed.digest, credential())
    assert asked(registry) == ["HEAD", "HEAD"]
    with pytest.raises(ImageRefusedError, match="does not accept"):
        await is_still(registry, pushed.digest)


async def test_a_manifest_of_another_size_than_its_index_says_is_refused(
    registry: Registry,
) -> None:
    image = registry.push("team/image:amd", DISK)
    document = json.loads(registry.push_index("team/image:1", {("linux", "amd64"): image}).body)
    document["manifests"][0]["size"] += 1
    registry.store("team/image:1", json.dumps(document).encode(), OCI_INDEX)
    with pytest.raises(ChecksumMismatchError, match="its index says"):
        await resolve(registry)


@pytest.mark.parametrize("more", [-1, 1, 1 << 40])
async def test_a_layer_of_another_size_than_its_manifest_says_is_refused(
    registry: Registry, more: int
) -> None:
    document = json.loads(registry.push("team/image:1", DISK).body)
    document["layers"][0]["size"] += more
    registry.store("team/image:1", json.dumps(document).encode(), OCI_MANIFEST)
    with pytest.raises(ImageRefusedError, match=rf"has {len(DISK)} bytes, and should have"):
        await fetched(await resolve(registry))


async def test_a_public_image_is_had_with_a_token_for_anybody(
    registry: Registry, tokens: TokenService
) -> None:
    tokens.public.add("team/image")
    registry.push("team/image:1", DISK)
    assert await fetched(await resolve(registry)) == DISK
    assert secrets_seen(tokens) == []


async def test_a_private_image_is_had_with_the_operators_password(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    registry.push("team/image:1", DISK)
    assert await fetched(await resolve(registry, credential=credential())) == DISK
    assert all(value.startswith("Bearer ") for value in secrets_seen(registry))
    with pytest.raises(ImageRefusedError, match="does not accept") as error:
        await resolve(registry)
    assert error.value.is_denial


async def test_a_wrong_password_is_a_denial(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    tokens.users["ci"] = "changed"
    registry.push("team/image:1", DISK)
    with pytest.raises(ImageRefusedError, match="does not accept") as error:
        await resolve(registry, credential=credential())
    assert error.value.is_denial
    assert PASSWORD not in error.value.explain()


async def test_a_registry_may_want_the_password_itself(
    registry: Registry, credential: Callable[..., Credential]
) -> None:
    registry.basic = ("ci", PASSWORD)
    registry.push("team/image:1", DISK)
    assert await fetched(await resolve(registry, credential=credential())) == DISK


async def test_where_blobs_are_kept_elsewhere_no_credentials_go_there(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    async with BlobHost.running() as blobs:
        registry.blob_host = blobs
        registry.push("team/image:1", DISK)
        assert await fetched(await resolve(registry, credential=credential())) == DISK
        assert len(blobs.requests) == 1
        assert secrets_seen(blobs) == []


async def test_a_token_that_ran_out_before_the_download_is_renewed(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    registry.push("team/image:1", DISK)
    blob = await resolve(registry, credential=credential())
    tokens.tokens.clear()
    assert await fetched(blob) == DISK


async def test_a_token_that_is_never_accepted_ends_the_download(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    registry.push("team/image:1", DISK)
    blob = await resolve(registry, credential=credential())
    registry.never_enough = True
    with pytest.raises(ImageRefusedError, match="HTTP 401") as error:
        await fetched(blob)
    assert error.value.is_denial


async def test_an_address_that_is_refused_is_refused_of_registries_too(
    registry: Registry,
) -> None:
    with pytest.raises(ImageRefusedError, match="loopback"):
        await resolve(registry, addresses=AddressPolicy())
    assert registry.requests == []


async def test_a_manifest_with_another_digest_is_refused(registry: Registry) -> None:
    pushed = registry.push("team/image:1", DISK)
    evil = registry.push("team/image:2", b"evil")
    registry.manifests[f"team/image@{pushed.digest}"] = evil
    with pytest.raises(ChecksumMismatchError, match=pushed.digest):
        await resolve(registry, pushed.digest)


async def test_an_image_for_containers_is_refused_with_a_hint(registry: Registry) -> None:
    registry.push("team/image:1", DISK, DISK[:100])
    with pytest.raises(ImageRefusedError, match="2 layers"):
        await resolve(registry)
    registry.push("team/image:1", DISK, media_type="application/vnd.oci.image.layer.v1.tar+gzip")
    with pytest.raises(ImageRefusedError, match="for containers") as error:
        await resolve(registry)
    assert "oras push" in error.value.explain()


async def test_a_huge_manifest_is_not_read(registry: Registry) -> None:
    registry.store("team/image:1", b" " * (5 << 20), OCI_MANIFEST)
    with pytest.raises(ImageRefusedError, match="larger than"):
        await resolve(registry)


async def test_a_missing_image_is_refused(registry: Registry) -> None:
    with pytest.raises(ImageRefusedError, match="HTTP 404"):
        await resolve(registry)


async def test_a_registry_that_never_has_enough_is_given_up(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    registry.never_enough = True
    with pytest.raises(ImageRefusedError, match="does not accept") as error:
        await resolve(registry, credential=credential())
    assert error.value.is_denial
    assert len(registry.requests) == 2
    assert len(tokens.requests) == 1


async def test_a_foreign_token_service_over_http_gets_no_password(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    registry.realm = f"http://localhost:{tokens.port}/token"
    registry.push("team/image:1", DISK)
    with pytest.raises(ImageRefusedError, match="does not accept"):
        await resolve(registry, credential=credential())
    assert len(tokens.requests) == 1
    assert secrets_seen(tokens) == []


async def test_a_token_service_cannot_be_an_address_that_is_refused(
    registry: Registry, credential: Callable[..., Credential]
) -> None:
    registry.realm = "http://169.254.169.254/latest/meta-data/"
    registry.push("team/image:1", DISK)
    with pytest.raises(ImageRefusedError, match="link-local"):
        await resolve(registry, credential=credential())


@contextlib.asynccontextmanager
async def another_registry() -> AsyncGenerator[Registry]:
    async with Registry.running() as other:
        other.push("team/image:1", DISK)
        yield other


async def test_a_registry_may_redirect_to_one_that_asks_nothing(registry: Registry) -> None:
    async with another_registry() as other:
        registry.redirect_manifests_to = f"{other.url}/v2/team/image/manifests/1"
        assert str((await resolve(registry)).checksum) == digest_of(DISK)


async def test_whom_a_registry_redirects_to_learns_no_password(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    registry.tokens = None
    async with another_registry() as other:
        other.tokens = tokens
        registry.redirect_manifests_to = f"{other.url}/v2/team/image/manifests/1"
        with pytest.raises(ImageRefusedError, match="another host"):
            await resolve(registry, credential=credential())
        assert secrets_seen(other, tokens) == []


async def test_whom_a_token_service_redirects_to_learns_no_password(
    registry: Registry, tokens: TokenService, credential: Callable[..., Credential]
) -> None:
    async with TokenService.running() as thief:
        tokens.redirect_to = f"{thief.url}/token?scope=repository:team/image:pull"
        registry.push("team/image:1", DISK)
        with pytest.raises(ImageRefusedError, match="contains no token"):
            await resolve(registry, credential=credential())
        assert len(thief.requests) == 1
        assert secrets_seen(thief) == []
