"""The signature of a release, checked by the real minisign, and a tag in a registry."""

import json
import shutil
import subprocess  # noqa: TID251 - whoever publishes signs with it
from pathlib import Path

import pytest
from fakes.registry import OCI_MANIFEST, Registry, TokenService, descriptor, digest_of

from qemu_node.config.images import CredentialConfig, ImagesConfig
from qemu_node.config.node import NodeConfig
from qemu_node.config.nodeos import OsConfig
from qemu_node.errors import ConfigError, ImageError
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.upgrade.elemental import docker_config
from qemu_node.nodeos.upgrade.manifest import (
    MEDIA_TYPE,
    SIGNATURE_TYPE,
    ManifestError,
    check_signature,
)
from qemu_node.nodeos.upgrade.source import find_credential, find_target, parse_system

pytestmark = pytest.mark.skipif(
    shutil.which("minisign") is None, reason="needs minisign: apt install minisign"
)

_DATA = b'{"version": 1}\n'


def _key(directory: Path, name: str) -> tuple[Path, Path]:
    public, secret = directory / f"{name}.pub", directory / f"{name}.key"
    argv = ["minisign", "-G", "-W", "-p", str(public), "-s", str(secret)]
    subprocess.run(argv, check=True, capture_output=True)
    return public, secret


def _signature(directory: Path, secret: Path, data: bytes) -> bytes:
    content, signature = directory / "m", directory / "m.sig"
    content.write_bytes(data)
    argv = ["minisign", "-S", "-s", str(secret), "-m", str(content), "-x", str(signature)]
    subprocess.run(argv, check=True, capture_output=True)
    return signature.read_bytes()


async def test_a_signature_by_the_key_is_right(tmp_path: Path) -> None:
    public, secret = _key(tmp_path, "own")
    await check_signature(_DATA, _signature(tmp_path, secret, _DATA), public, "m")


async def test_another_content_key_or_signature_is_refused(tmp_path: Path) -> None:
    public, secret = _key(tmp_path, "own")
    other, _ = _key(tmp_path, "other")
    signature = _signature(tmp_path, secret, _DATA)
    for data, signed, key in (
        (_DATA + b" ", signature, public),
        (_DATA, signature, other),
        (_DATA, b"", public),
        (_DATA, b"\xff" * 300, public),
    ):
        with pytest.raises(ManifestError, match="signature of m is not right"):
            await check_signature(data, signed, key, "m")


async def test_a_node_without_a_key_installs_no_tag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key to check images with"):
        await check_signature(_DATA, b"", tmp_path / "none", "m")


_IMAGE = "sha256:" + "a" * 64


def _manifest(**change: object) -> bytes:
    return json.dumps(
        {
            "version": 1,
            "image": "nomad-qemu-node",
            "tag": "v2",
            "created": "2026-11-30T10:00:00Z",
            "digest": _IMAGE,
            "size_bytes": 4,
            "unpacked_bytes": 9,
        }
        | change
    ).encode()


def _publish(registry: Registry, name: str, manifest: bytes, signature: bytes) -> None:
    layers = {MEDIA_TYPE: manifest, SIGNATURE_TYPE: signature}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [descriptor(body, kind) for kind, body in layers.items()],
    }
    registry.blobs |= {digest_of(body): body for body in layers.values()}
    registry.store(name, json.dumps(document).encode(), OCI_MANIFEST)


async def test_a_tag_is_the_digest_that_its_signed_manifest_names(tmp_path: Path) -> None:
    public, secret = _key(tmp_path, "own")
    data = _manifest(names=["stable"])
    config = NodeConfig(os=OsConfig(key=str(public)))
    async with Registry.running() as registry:
        source = parse_system(f"oci:{registry.host}/node:stable")
        with pytest.raises(ImageError):
            await find_target(source, config, NodePaths(tmp_path))
        _publish(registry, "node:stable.manifest", data, _signature(tmp_path, secret, data))
        target = await find_target(source, config, NodePaths(tmp_path))
        assert target.system == f"oci:{registry.host}/node@{_IMAGE}"
        assert (target.tag, target.unpacked_bytes, target.is_signed) == ("v2", 9, True)
        # Somebody with access to the registry gives the tag another image.
        other = _manifest(digest="sha256:" + "b" * 64)
        _publish(registry, "node:stable.manifest", other, _signature(tmp_path, secret, data))
        with pytest.raises(ManifestError, match="signature"):
            await find_target(source, config, NodePaths(tmp_path))


async def test_a_tag_that_the_image_was_not_signed_for_is_refused(tmp_path: Path) -> None:
    public, secret = _key(tmp_path, "own")
    config = NodeConfig(os=OsConfig(key=str(public)))
    # The second one is of a build that did not know names.
    for data in (_manifest(names=["testing"]), _manifest()):
        signature = _signature(tmp_path, secret, data)
        async with Registry.running() as registry:
            # Whoever controls the registry gives it another name.
            for name in ("stable", "v2"):
                _publish(registry, f"node:{name}.manifest", data, signature)
            source = parse_system(f"{registry.host}/node:stable")
            with pytest.raises(ManifestError, match=r"v2, which was not signed to be stable"):
                await find_target(source, config, NodePaths(tmp_path))
            own = parse_system(f"{registry.host}/node:v2")
            assert (await find_target(own, config, NodePaths(tmp_path))).digest == _IMAGE


async def test_a_private_registry_is_asked_with_the_operators_credentials(tmp_path: Path) -> None:
    """Elemental, too: by a file of Docker's that is there only while it runs."""
    public, secret = _key(tmp_path, "own")
    data = _manifest()
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    password.chmod(0o600)
    async with Registry.running() as registry, TokenService.running() as tokens:
        tokens.users["ci"] = "hunter2"
        registry.tokens = tokens
        _publish(registry, "node:v2.manifest", data, _signature(tmp_path, secret, data))
        entry = CredentialConfig(host=registry.host, username="ci", password_file=str(password))
        config = NodeConfig(os=OsConfig(key=str(public)), images=ImagesConfig(credentials=(entry,)))
        source = parse_system(f"{registry.host}/node:v2")
        paths = NodePaths(tmp_path / "root")
        target = await find_target(source, config, paths)
        assert target.digest == _IMAGE
    credential = find_credential(config, source)
    with docker_config(paths, source.host, credential) as directory:
        assert directory is not None
        file = directory / "config.json"
        assert "hunter2" not in file.read_text()
        assert json.loads(file.read_text())["auths"][source.host]["auth"]
        assert file.stat().st_mode & 0o077 == directory.stat().st_mode & 0o077 == 0
    assert not file.exists()
