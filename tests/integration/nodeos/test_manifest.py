"""The signature of a release, checked by the real minisign."""

import shutil
import subprocess  # noqa: TID251 - whoever publishes signs with it
from pathlib import Path

import pytest

from qemu_node.errors import ConfigError
from qemu_node.nodeos.upgrade.manifest import ManifestError, check_signature

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
