"""The manifest of an image, which says by digest what its names are, and its signature.

Owns how it is made and signed. Does not own its form, nor how nodes verify it: both are the
node's (`qemu_node.nodeos.upgrade.manifest`).

Source: minisign(1).
"""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from osimage.build.artefact.oci import manifest_of, size_of_layout
from osimage.build.errors import BuildError
from osimage.build.namespace import run_in
from qemu_node.host.process.command import ProcessError
from qemu_node.nodeos.release import IMAGE_ID
from qemu_node.nodeos.upgrade.manifest import VERSION, Manifest, parse_manifest


def render(layout: Path, *, tag: str, epoch: int, unpacked_bytes: int) -> str:
    """Return the manifest of the image in an OCI layout."""
    digest, _ = manifest_of(layout)
    document = Manifest(
        version=VERSION,
        image=IMAGE_ID,
        tag=tag,
        created=datetime.fromtimestamp(epoch, UTC),
        digest=digest,
        size_bytes=size_of_layout(layout),
        unpacked_bytes=unpacked_bytes,
    )
    return msgspec.json.encode(document).decode() + "\n"


def with_names(document: bytes, names: Iterable[str], shown: str) -> bytes:
    """Return the manifest `document`, to be signed for `names` too; unchanged if it is: pure.

    Raises:
        ManifestError: it is no manifest.
    """
    manifest = parse_manifest(document, shown)
    more = [name for name in dict.fromkeys(names) if not manifest.is_for(name)]
    if not more:
        return document
    changed = msgspec.structs.replace(manifest, names=(*manifest.names, *more))
    return msgspec.json.encode(changed) + b"\n"


def sign(tools: Path, key: Path, document: Path, signature: Path) -> None:
    """Write the signature of the file `document` by the secret key `key`.

    The key's password, if it has one, is in MINISIGN_PASSWORD.

    Raises:
        BuildError: minisign does not accept the key or the password.
    """
    if not key.is_file():
        raise BuildError(f"there is no key {key}", hint=_KEY_HINT)
    comment = f"file:{document.name}"
    try:
        made = run_in(
            tools,
            ["sh", "-c", 'minisign -S -q -s /run/key -m /run/document -x /run/sig -t "$1" >&2'
             " && cat /run/sig", "sign", comment],
            binds={key.resolve(): "/run/key", document.resolve(): "/run/document"},
            stdin=_password(),
        ).stdout  # fmt: skip
    except ProcessError as exc:
        raise BuildError(f"cannot sign with {key}: {exc}", hint=_KEY_HINT) from exc
    signature.write_bytes(made)


def public_key(tools: Path, key: Path) -> bytes:
    """Return the public key that belongs to a secret one.

    Raises:
        BuildError: minisign does not accept the key or the password.
    """
    if not key.is_file():
        raise BuildError(f"there is no key {key}", hint=_KEY_HINT)
    try:
        return run_in(
            tools,
            ["sh", "-c", "minisign -R -q -s /run/key -p /run/pub >&2 && cat /run/pub"],
            binds={key.resolve(): "/run/key"}, stdin=_password(),
        ).stdout  # fmt: skip
    except ProcessError as exc:
        raise BuildError(f"cannot use the key {key}: {exc}", hint=_KEY_HINT) from exc


def _password() -> bytes:
    return f"{os.environ.get('MINISIGN_PASSWORD', '')}\n".encode()


_KEY_HINT = (
    "--key is the secret key of `minisign -G` (with -W: without a password); "
    "put its password into MINISIGN_PASSWORD"
)
