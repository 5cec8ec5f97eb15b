"""Indexes and manifests of a registry. Pure; no registry is trusted.

Owns which manifest of an index is used and which layer of a manifest is the disk. Does not own
fetching either (`oci`) nor the content of the layer (`format`).

Sources: github.com/opencontainers/image-spec, image-index.md and manifest.md; Docker's "Image
Manifest Version 2, Schema 2", which differs in media types only.
"""

import hashlib
import re
from typing import Annotated

import msgspec

from qemu_node.images.errors import ChecksumMismatchError, ImageRefusedError
from qemu_node.text import DECODE_ERRORS

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
MAX_BYTES = 4 << 20
"""Largest index or manifest that is read; registries accept no larger ones (distribution-spec)."""

_SCHEMA_VERSION = 2
# Go's name of the architecture is the rule (image-spec, image-index.md); some use the kernel's.
_ARCHITECTURES = frozenset({"amd64", "x86_64", "x86-64", "x64"})
# In order of preference. Whoever pushes a disk often names no operating system.
_SYSTEMS = ("linux", "", "windows")
_VARIANT = re.compile(r"v?([0-9]{1,2})")
# What BuildKit adds beside each image (docs/attestations/attestation-storage.md).
_REFERENCE_TYPE = "vnd.docker.reference.type"
_TITLE = "org.opencontainers.image.title"
_ORAS_UNPACK = "io.deis.oras.content.unpack"
_TAR_NAMES = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2")
_HINT = (
    "push the disk as the one file of an artifact: "
    "oras push REGISTRY/REPOSITORY:TAG disk.qcow2:application/octet-stream"
)

_Digest = Annotated[str, msgspec.Meta(pattern=r"\A(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")]
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class Platform(msgspec.Struct, frozen=True):
    """What a manifest of an index is for."""

    architecture: str | None = None
    os: str | None = None
    variant: str | None = None


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A pointer to a manifest or a blob."""

    digest: _Digest
    size: _Size
    media_type: str | None = None
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


_Descriptors = Annotated[tuple[Descriptor, ...], msgspec.Meta(max_length=1024)]


class Document(msgspec.Struct, frozen=True, rename="camel"):
    """An index, which has `manifests`, or a manifest, which has `layers`."""

    schema_version: int
    media_type: str | None = None
    manifests: _Descriptors | None = None
    layers: _Descriptors | None = None


def parse_document(body: bytes, shown: str) -> Document:
    """Return the index or manifest in `body`; `shown` names the image in errors.

    Raises:
        ImageRefusedError: it is neither, or could be taken for either.
    """
    wrong = ImageRefusedError(f"{shown}: the registry's answer is not the manifest of an image")
    if len(body) > MAX_BYTES:
        raise wrong
    try:
        document = msgspec.json.decode(body, type=Document)
    except DECODE_ERRORS:
        # Without the exception's text, which may be as long as the answer.
        raise wrong from None
    is_index = document.manifests is not None
    # The same digest must not name one image for us and another for a scanner of images.
    is_ambiguous = is_index == (document.layers is not None)
    types = INDEX_TYPES if is_index else MANIFEST_TYPES
    is_other = document.media_type not in (None, "", *types)
    if document.schema_version != _SCHEMA_VERSION or is_ambiguous or is_other:
        raise wrong
    return document


def check_digest(body: bytes, digest: str, shown: str, *, size_bytes: int | None = None) -> None:
    """Raise unless `body` has the digest `digest` and the length in its descriptor.

    Raises:
        ChecksumMismatchError: it has not.
    """
    if size_bytes not in (None, len(body)):
        raise ChecksumMismatchError(
            f"{shown}: the manifest {digest} has {len(body)} bytes, its index says {size_bytes}"
        )
    actual = digest_of(body, digest.partition(":")[0])
    if actual != digest:
        raise ChecksumMismatchError(
            f"{shown}: the registry gave another manifest than was asked for: got {actual}, "
            f"expected {digest}"
        )


def digest_of(body: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of `body` in the form that registries use."""
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


def choose_manifest(index: Document, shown: str) -> Descriptor:
    """Return the manifest for linux/amd64; the only one if it names no platform.

    Attestations are ignored. Of several, the one for the oldest CPU is used, and of these the first
    (image-spec, image-index.md).

    Raises:
        ImageRefusedError: there is none.
    """
    images = [manifest for manifest in index.manifests or () if not _is_attestation(manifest)]
    ranked = [(rank, image) for image in images if (rank := _rank(image)) is not None]
    if ranked:
        return min(ranked, key=lambda pair: pair[0])[1]
    if len(images) == 1 and not (images[0].platform and images[0].platform.architecture):
        return images[0]
    raise ImageRefusedError(f"{shown} has no image for linux/amd64", hint=_HINT)


def _rank(manifest: Descriptor) -> tuple[int, int] | None:
    """Return the rank of a manifest, the best is lowest; None if it is for other machines."""
    platform = manifest.platform
    if platform is None or (platform.architecture or "").lower() not in _ARCHITECTURES:
        return None
    system = (platform.os or "").lower()
    if system not in _SYSTEMS:
        return None
    variant = _VARIANT.fullmatch(platform.variant or "v1")
    return _SYSTEMS.index(system), int(variant[1]) if variant else 0


def _is_attestation(manifest: Descriptor) -> bool:
    """Tell whether a manifest of an index says something about another one."""
    platform = manifest.platform
    is_unknown = platform is not None and platform.architecture == platform.os == "unknown"
    return is_unknown or _REFERENCE_TYPE in (manifest.annotations or {})


def choose_layer(manifest: Document, shown: str) -> Descriptor:
    """Return the only layer, which is the disk: raw, qcow2, or either compressed.

    Raises:
        ImageRefusedError: there are none or several, or it is a file system packed with tar.
    """
    layers = manifest.layers or ()
    if len(layers) != 1:
        raise ImageRefusedError(
            f"{shown} has {len(layers)} layers, the disk of a VM has one", hint=_HINT
        )
    if _is_tar(layers[0]):
        raise ImageRefusedError(
            f"{shown} is an image for containers, not the disk of a VM", hint=_HINT
        )
    return layers[0]


def _is_tar(layer: Descriptor) -> bool:
    """Tell whether a layer is an archive.

    `oras push` calls every file a tar, unless told its media type, and gives it its name as the
    title (oras-go v2, content/file, `defaultBlobMediaType`). Only what it says to unpack is one.
    """
    annotations = layer.annotations or {}
    title = annotations.get(_TITLE, "").lower()
    if title.endswith(_TAR_NAMES) or annotations.get(_ORAS_UNPACK) == "true":
        return True
    return ".tar" in (layer.media_type or "") and not title
