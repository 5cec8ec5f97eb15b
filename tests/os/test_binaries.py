"""Nomad's and Elemental's releases, from servers and with a key of the test's own."""

import asyncio
import gzip
import hashlib
import io
import json
import shutil
import ssl
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from fakes.http_peer import HttpPeer, PeerRequest, Reply
from fakes.pgp import PgpKey
from fakes.registry import OCI_MANIFEST, Registry, Stored, descriptor, digest_of

from osimage.build.binaries.elemental import fetch_elemental, pin
from osimage.build.binaries.lock import ElementalLock, NomadLock
from osimage.build.binaries.nomad import fetch_nomad
from osimage.build.errors import BuildError
from osimage.build.stages import Stages
from qemu_node.host.process.command import run_blocking

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(900)]

_ZIP = "nomad_1.2.3_linux_amd64.zip"
_SUMS = "nomad_1.2.3_SHA256SUMS"
_PROGRAM = b"#!/bin/sh\necho Nomad v1.2.3\n" + bytes(range(256)) * 1000
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class ReleaseServer(HttpPeer):
    """Has a release's files, or less of a file than it says."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.key = PgpKey()

    def answer(self, request: PeerRequest) -> Reply:
        name = request.path.removeprefix("/")
        if name not in self.files:
            return Reply(404)
        body = self.files[name]
        if name in self.cut:
            return Reply(body=body[: len(body) // 2], headers={"Content-Length": str(len(body))})
        return Reply(body=body)

    def publish(self, sums: bytes, *, key: PgpKey | None = None) -> None:
        """Put a list of checksums there, signed by `key` or the publisher's own."""
        self.files[_SUMS] = sums
        self.files[f"{_SUMS}.sig"] = (key or self.key).sign(sums)

    @property
    def lock(self) -> NomadLock:
        return NomadLock(
            version="1.2.3", url=f"{self.url}/{_ZIP}", sha256=_sha256(self.files[_ZIP]),
            sums=f"{self.url}/{_SUMS}", key=f"{self.url}/key.txt",
            key_fingerprint=self.key.fingerprint,
        )  # fmt: skip


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _sums_of(name: str, body: bytes) -> bytes:
    return f"{'0' * 64}  nomad_1.2.3_darwin_arm64.zip\n{_sha256(body)}  {name}\n".encode()


def _zip_of(program: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("LICENSE.txt", "words")
        archive.writestr("nomad", program)
    return packed.getvalue()


@pytest.fixture
async def release() -> AsyncIterator[ReleaseServer]:
    async with ReleaseServer.running() as server:
        server.files = {_ZIP: _zip_of(_PROGRAM), "key.txt": server.key.armoured()}
        server.publish(_sums_of(_ZIP, server.files[_ZIP]))
        yield server


async def _nomad(cache: Path, tools: Path, lock: NomadLock) -> Path:
    with Stages(cache) as stages:
        return await asyncio.to_thread(fetch_nomad, stages, tools, lock)


async def test_the_signed_release_is_downloaded_once(
    release: ReleaseServer, tools: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        program = await _nomad(tmp_path, tools, release.lock)
        assert program.read_bytes() == _PROGRAM
        assert program.stat().st_mode & 0o777 == 0o755
    asked = [request.path for request in release.requests]
    assert sorted(asked) == sorted(f"/{name}" for name in release.files)


def _other_key_signs(server: ReleaseServer) -> None:
    server.publish(server.files[_SUMS], key=PgpKey())


def _other_key_is_published(server: ReleaseServer) -> None:
    other = PgpKey()
    server.publish(server.files[_SUMS], key=other)
    server.files["key.txt"] = other.armoured()


def _list_changed_after_it_was_signed(server: ReleaseServer) -> None:
    server.files[_SUMS] += b"\n"


def _key_is_revoked(server: ReleaseServer) -> None:
    server.files["key.txt"] = server.key.armoured(is_revoked=True)


def _list_is_of_another_file(server: ReleaseServer) -> None:
    server.publish(_sums_of("nomad_1.2.2_linux_amd64.zip", server.files[_ZIP]))


def _list_has_another_checksum(server: ReleaseServer) -> None:
    server.publish(_sums_of(_ZIP, b"an earlier build"))


def _page_has_no_key(server: ReleaseServer) -> None:
    server.files["key.txt"] = b"<html>\xff</html>"


def _archive_is_cut(server: ReleaseServer) -> None:
    server.cut.add(_ZIP)


def _list_is_cut(server: ReleaseServer) -> None:
    server.cut.add(_SUMS)


def _archive_is_gone(server: ReleaseServer) -> None:
    del server.files[_ZIP]


def _archive_is_replaced(server: ReleaseServer) -> None:
    server.files[_ZIP] = _zip_of(b"another program")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_key_signs, "is not signed by the key"),
        (_other_key_is_published, "is not signed by the key"),
        (_list_changed_after_it_was_signed, "is not signed by the key"),
        (_key_is_revoked, "which is revoked or expired"),
        (_list_is_of_another_file, "signed checksums do not have nomad_1.2.3_linux_amd64.zip"),
        (_list_has_another_checksum, "signed checksums do not have nomad_1.2.3_linux_amd64.zip"),
        (_page_has_no_key, "has no key"),
        (_archive_is_cut, "it ended after .* of .* bytes"),
        (_list_is_cut, "it ended after .* of .* bytes"),
        (_archive_is_gone, "cannot fetch .*404"),
        (_archive_is_replaced, "has sha256"),
    ],
)
async def test_every_other_release_is_refused_and_nothing_of_it_is_kept(
    change: Callable[[ReleaseServer], None],
    words: str,
    release: ReleaseServer,
    tools: Path,
    tmp_path: Path,
) -> None:
    lock = release.lock
    change(release)
    with pytest.raises(BuildError, match=words):
        await _nomad(tmp_path, tools, lock)
    assert [path.suffix for path in tmp_path.iterdir()] == [".used"]


async def test_an_archive_without_the_program_is_refused(
    release: ReleaseServer, tools: Path, tmp_path: Path
) -> None:
    release.files[_ZIP] = b"no archive"
    release.publish(_sums_of(_ZIP, release.files[_ZIP]))
    with pytest.raises(BuildError, match="is no archive with nomad"):
        await _nomad(tmp_path, tools, release.lock)


@pytest.mark.parametrize("damaged", ["nomad", "nomad.zip"])
async def test_a_kept_release_that_was_damaged_is_downloaded_again(
    damaged: str, release: ReleaseServer, tools: Path, tmp_path: Path
) -> None:
    program = await _nomad(tmp_path, tools, release.lock)
    with program.with_name(damaged).open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")
    program = await _nomad(tmp_path, tools, release.lock)
    assert program.read_bytes() == _PROGRAM
    assert len(release.requests) == 8


@pytest.fixture
async def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Registry]:
    """A registry with TLS, whose certificate this process trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.pem"
    run_blocking(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with Registry.running(context) as server:
        yield server


def _layer_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return gzip.compress(packed.getvalue(), mtime=0)


def _push(registry: Registry, *layers: bytes) -> Stored:
    """Store an image of the Elemental CLI, and return its manifest."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {
                "type": "layers",
                "diff_ids": [digest_of(gzip.decompress(layer)) for layer in layers],
            },
        }
    ).encode()
    registry.blobs |= {digest_of(blob): blob for blob in (config, *layers)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, _CONFIG),
        "layers": [descriptor(layer, _LAYER) for layer in layers],
    }
    return registry.store("elemental:v1", json.dumps(manifest).encode(), OCI_MANIFEST)


_CLI = b"the CLI"
_LAYERS = (
    _layer_of({"usr/bin/elemental": b"an older CLI", "etc/os-release": b"x"}),
    _layer_of({"./usr/bin/elemental": _CLI}),
    _layer_of({"etc/more": b"x"}),
)


def _elemental_lock(registry: Registry, image: Stored) -> ElementalLock:
    return ElementalLock(
        version="1", image=f"{registry.host}/elemental:v1", digest=image.digest,
        sha256=_sha256(_CLI),
    )  # fmt: skip


async def _elemental(cache: Path, tools: Path, lock: ElementalLock) -> Path:
    with Stages(cache) as stages:
        return await asyncio.to_thread(fetch_elemental, stages, tools, lock)


async def test_the_cli_of_the_topmost_layer_is_fetched_once_by_digest(
    registry: Registry, tools: Path, tmp_path: Path
) -> None:
    lock = _elemental_lock(registry, _push(registry, *_LAYERS))
    # A tag may move; the digest does not.
    del registry.manifests["elemental:v1"]
    program = await _elemental(tmp_path / "cache", tools, lock)
    assert program.read_bytes() == _CLI
    assert program.stat().st_mode & 0o777 == 0o755
    registry.requests.clear()
    await _elemental(tmp_path / "cache", tools, lock)
    assert registry.requests == []


async def test_what_is_pinned_is_what_is_fetched(
    registry: Registry, tools: Path, tmp_path: Path
) -> None:
    image = _push(registry, *_LAYERS)
    index = registry.push_index("elemental:v1", {("linux", "amd64"): image})
    (tmp_path / "scratch").mkdir()
    unpinned = msgspec.structs.replace(_elemental_lock(registry, image), digest="", sha256="")
    digest, sha256 = await asyncio.to_thread(pin, tools, unpinned, tmp_path / "scratch")
    assert (digest, sha256) == (index.digest, _sha256(_CLI))
    pinned = msgspec.structs.replace(unpinned, digest=digest, sha256=sha256)
    assert (await _elemental(tmp_path / "cache", tools, pinned)).read_bytes() == _CLI


async def test_an_image_without_the_cli_is_refused(
    registry: Registry, tools: Path, tmp_path: Path
) -> None:
    lock = _elemental_lock(registry, _push(registry, _LAYERS[2]))
    with pytest.raises(BuildError, match="has no /usr/bin/elemental"):
        await _elemental(tmp_path / "cache", tools, lock)


async def test_another_cli_than_the_pinned_one_is_refused(
    registry: Registry, tools: Path, tmp_path: Path
) -> None:
    lock = _elemental_lock(registry, _push(registry, _LAYERS[0]))
    with pytest.raises(BuildError, match=r"has sha256 .*, not .* of binaries\.toml"):
        await _elemental(tmp_path / "cache", tools, lock)


def _manifest_is_replaced(registry: Registry, image: Stored) -> None:
    registry.manifests[f"elemental@{image.digest}"] = _push(registry, _LAYERS[0])


def _layer_is_replaced(registry: Registry, _: Stored) -> None:
    registry.blobs[digest_of(_LAYERS[1])] = _LAYERS[0]


def _layer_is_cut(registry: Registry, _: Stored) -> None:
    registry.blobs[digest_of(_LAYERS[1])] = _LAYERS[1][:-20]


def _image_is_gone(registry: Registry, _: Stored) -> None:
    registry.manifests.clear()


@pytest.mark.parametrize(
    "change", [_manifest_is_replaced, _layer_is_replaced, _layer_is_cut, _image_is_gone]
)
async def test_an_image_that_is_not_what_its_digest_says_is_refused(
    change: Callable[[Registry, Stored], None], registry: Registry, tools: Path, tmp_path: Path
) -> None:
    image = _push(registry, *_LAYERS)
    lock = _elemental_lock(registry, image)
    change(registry, image)
    with pytest.raises(BuildError, match=f"cannot fetch .*@{image.digest}"):
        await _elemental(tmp_path / "cache", tools, lock)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".used"]


async def test_a_layer_of_another_kind_is_refused_with_words(
    registry: Registry, tools: Path, tmp_path: Path
) -> None:
    lock = _elemental_lock(registry, _push(registry, gzip.compress(b"no archive")))
    with pytest.raises(BuildError, match="a layer that is no gzip file of a tar archive"):
        await _elemental(tmp_path / "cache", tools, lock)


async def test_a_kept_cli_that_was_damaged_is_fetched_again(
    registry: Registry, tools: Path, tmp_path: Path
) -> None:
    lock = _elemental_lock(registry, _push(registry, *_LAYERS))
    program = await _elemental(tmp_path / "cache", tools, lock)
    program.write_bytes(b"damaged")
    assert (await _elemental(tmp_path / "cache", tools, lock)).read_bytes() == _CLI
