"""Objects of S3: real requests, to a server that works out the signature by itself."""

from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from fakes.memory_sink import MemorySink
from fakes.s3_server import S3Server

from qemu_node.config.images import CredentialConfig
from qemu_node.images.errors import ImageRefusedError
from qemu_node.images.http.address import AddressPolicy
from qemu_node.images.http.httpsettings import FetchLimits, HttpSettings
from qemu_node.images.http.transfer import transfer
from qemu_node.images.source.credentials import Credential, CredentialStore
from qemu_node.images.source.name import S3Source, parse_source
from qemu_node.images.source.s3 import s3_file

DISK = bytes(range(256)) * 512
LIMITS = FetchLimits(retries=0)
LOOPBACK = AddressPolicy(allow=(ip_network("127.0.0.0/8"),))
HTTP = HttpSettings(limits=LIMITS, addresses=LOOPBACK)
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

KEYS = [
    "disk.qcow2",
    "images/13/disk.qcow2",
    "a//b.raw",
    "disk+1=2&3.raw",
    "a%20b%2Fc.raw",
    "q?x#y.raw",
    "Grüße-ሴ-😀.raw",
    "!'()*~-_.,;:@$[]{}|^`\"<>\\.raw",
]


@pytest.fixture
async def server() -> AsyncGenerator[S3Server]:
    async with S3Server.running() as server:
        server.keys["AKID"] = SECRET
        yield server


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def credential(server: S3Server, secret_file: Path) -> Callable[..., Credential]:
    def make(**settings: str) -> Credential:
        entry = CredentialConfig(
            host="s3://bucket",
            endpoint=server.url,
            access_key_id="AKID",
            secret_key_file=str(secret_file),
            **settings,  # type: ignore[arg-type]
        )
        found = CredentialStore([entry]).find("s3://bucket", None)
        assert found is not None
        return found

    return make


async def fetched(source: S3Source, credential: Credential) -> bytes:
    sink = MemorySink()
    file = s3_file(source, credential)
    await transfer(file, sink, max_bytes=1 << 30, http=HTTP)
    return bytes(sink.content)


@pytest.mark.parametrize("key", KEYS)
async def test_an_object_is_had_whatever_its_key(
    server: S3Server, credential: Callable[..., Credential], key: str
) -> None:
    server.objects[f"/bucket/{key}"] = DISK
    source = parse_source(f"s3://bucket/{key}")
    assert isinstance(source, S3Source)
    assert await fetched(source, credential()) == DISK


async def test_a_rotated_key_counts_at_once(
    server: S3Server, credential: Callable[..., Credential], secret_file: Path
) -> None:
    server.objects["/bucket/x"] = DISK
    keys = credential()
    assert await fetched(S3Source("bucket", "x"), keys) == DISK
    server.keys["AKID"] = "new"
    with pytest.raises(ImageRefusedError) as error:
        await fetched(S3Source("bucket", "x"), keys)
    assert error.value.is_denial
    secret_file.write_text("new\n")
    assert await fetched(S3Source("bucket", "x"), keys) == DISK


async def test_a_session_token_comes_with_temporary_keys(
    server: S3Server, credential: Callable[..., Credential], tmp_path: Path
) -> None:
    session = tmp_path / "session"
    session.write_text("temporary/+=\n")
    server.sessions["AKID"] = "temporary/+="
    server.objects["/bucket/x"] = DISK
    assert (
        await fetched(S3Source("bucket", "x"), credential(session_token_file=str(session))) == DISK
    )


async def test_the_region_is_the_buckets(
    server: S3Server, credential: Callable[..., Credential]
) -> None:
    server.region = "eu-central-1"
    server.objects["/bucket/x"] = DISK
    with pytest.raises(ImageRefusedError, match="HTTP 403"):
        await fetched(S3Source("bucket", "x"), credential())
    assert await fetched(S3Source("bucket", "x"), credential(region="eu-central-1")) == DISK


async def test_a_clock_that_is_wrong_is_a_denial(
    server: S3Server, credential: Callable[..., Credential]
) -> None:
    server.skew = timedelta(hours=1)
    server.objects["/bucket/x"] = DISK
    with pytest.raises(ImageRefusedError, match="HTTP 403"):
        await fetched(S3Source("bucket", "x"), credential())


async def test_the_secret_is_not_sent_nor_said(
    server: S3Server, credential: Callable[..., Credential]
) -> None:
    with pytest.raises(ImageRefusedError, match="HTTP 404") as error:
        await fetched(S3Source("bucket", "absent"), credential())
    [request] = server.requests
    assert SECRET not in f"{request} {error.value.explain()}"


async def test_a_public_bucket_is_asked_without_a_signature(server: S3Server) -> None:
    server.keys.clear()
    server.objects["/bucket/x"] = DISK
    entry = CredentialConfig(host="s3://bucket", endpoint=server.url)
    public = CredentialStore([entry]).find("s3://bucket", None)
    assert public is not None
    assert await fetched(S3Source("bucket", "x"), public) == DISK
    assert "authorization" not in server.requests[0].headers
