"""The manifest of a release: what whoever publishes images signs.

Owns its content and the check of its signature by `minisign`. Does not own where it comes from
(`source`) nor who makes it (`osimage`). It names the image by its digest, so its signature is the
image's; and the names it was signed for, so that whoever controls the registry cannot give `stable`
an image that was signed for `testing`.
"""

import datetime
import re
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec

from qemu_node.errors import ConfigError, NodeError
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.process.command import ProcessError, run_blocking
from qemu_node.nodeos.release import IMAGE_ID, TAG_PATTERN
from qemu_node.text import DECODE_ERRORS

MEDIA_TYPE = "application/vnd.qemu-node.manifest.v1+json"
SIGNATURE_TYPE = "application/vnd.qemu-node.manifest.v1.minisig"

VERSION = 1
"""What this system writes and understands."""

_TIMEOUT_S = 30.0
_NAMES_MAX = 100

_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
_Tag = Annotated[str, msgspec.Meta(pattern=rf"\A{TAG_PATTERN.pattern}\Z")]
_Digest = Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]


class ManifestError(NodeError):
    """The manifest is not what it should be; nothing is installed."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an image before it is downloaded."""

    version: int
    image: str
    tag: _Tag
    created: datetime.datetime
    digest: _Digest
    size_bytes: _Size
    """As it is downloaded."""
    unpacked_bytes: _Size
    """As files."""
    names: Annotated[tuple[_Tag, ...], msgspec.Meta(max_length=_NAMES_MAX)] = ()
    """The tags that it is signed for, beside its own. A system that does not know this field
    installs what the manifest says."""

    def is_for(self, name: str) -> bool:
        """Tell whether it was signed to be found as `name`."""
        return name == self.tag or name in self.names


def parse_manifest(data: bytes, shown: str) -> Manifest:
    """Return the manifest in `data`; `shown` names it in errors: pure.

    Raises:
        ManifestError: it is none, or none of an image of ours.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except DECODE_ERRORS as exc:
        raise ManifestError(f"{shown} is no manifest of an image: {exc}") from None
    if manifest.version != VERSION:
        raise ManifestError(
            f"{shown} has version {manifest.version}, this system knows {VERSION}",
            hint="upgrade to an image between this one and that one first",
        )
    if manifest.image != IMAGE_ID:
        raise ManifestError(f"{shown} is of {manifest.image!r}, not of {IMAGE_ID}")
    if manifest.created.tzinfo is None:
        raise ManifestError(f"{shown} has a time without a time zone")
    return manifest


async def check_signature(data: bytes, signature: bytes, key: Path, shown: str) -> None:
    """Return if `signature` is that of `data` by `key`, a public key of minisign.

    Raises:
        ConfigError: there is no such key.
        ManifestError: the signature is not right.
    """
    await to_the_end(_check_signature, data, signature, key, shown)


def _check_signature(data: bytes, signature: bytes, key: Path, shown: str) -> None:
    if not key.is_file():
        raise ConfigError(
            f"there is no key to check images with: {key}",
            hint="name your own by os.key in node.toml, or the image by its digest: "
            "--system oci:REGISTRY/REPOSITORY@sha256:…",
        )
    with tempfile.TemporaryDirectory(prefix="qemu-node-os-") as name:
        content, signed = Path(name) / "manifest", Path(name) / "signature"
        content.write_bytes(data)
        signed.write_bytes(signature)
        argv = [
            "minisign", "-V", "-q",
            "-m", str(content),
            "-x", str(signed),
            "-p", str(key),
        ]  # fmt: skip
        try:
            run_blocking(argv, timeout_s=_TIMEOUT_S)
        except ProcessError as exc:
            words = _last_words(exc.stderr)
            raise ManifestError(
                f"the signature of {shown} is not right: {words}",
                hint=f"it was not made with the key {key}; nothing was installed",
            ) from exc


def _last_words(text: str) -> str:
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "minisign does not accept it")
