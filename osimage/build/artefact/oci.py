"""The OCI image: what nodes upgrade to. One gzip layer; two builds of a tree give the same bytes.

Owns the layout's documents.

Source: github.com/opencontainers/image-spec, image-layout.md and config.md.
"""

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from osimage.build.namespace import run_in
from osimage.build.stages import Stages, digest_of

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

# pax: capabilities are extended attributes. Without names of temporary files and times of reading,
# which differ between two builds. The arguments: none. Prints the digest of what gzip reads.
_PACK = r"""set -eu
mkfifo /work/tar
sha256sum </work/tar >/work/diff_id &
tar --create --directory=/source --sort=name --numeric-owner --format=pax \
    --pax-option='exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime' \
    --xattrs --xattrs-include='*' --acls --exclude='./dev/*' --exclude='./run/*' . |
    tee /work/tar | pigz --no-name -6 >/work/layer
wait $!
rm /work/tar
"""


def make_oci(stages: Stages, tools: Path, tree: Path, *, tag: str, epoch: int) -> Path:
    """Return the OCI layout of the root file system `tree`, under the name `tag`."""

    def make(target: Path, scratch: Path) -> None:
        run_in(tools, ["bash", "-o", "pipefail", "-c", _PACK],
               binds={tree: "/source", scratch: "/work"})  # fmt: skip
        diff_id = (scratch / "diff_id").read_text().split()[0]
        write_layout(target, [(scratch / "layer", diff_id)], tag=tag, epoch=epoch)

    digest = digest_of(["oci 1", tools.name, tree.name, _PACK, tag, str(epoch)])
    return stages.get("oci", digest, make, about="makes the OCI image (half a minute)")


def write_layout(target: Path, layers: list[tuple[Path, str]], *, tag: str, epoch: int) -> None:
    """Write the layout `target` of an image.

    Args:
        target: A directory that is not there yet.
        layers: Gzip files, which are moved, and the sha256 of what is in each.
        tag: The image's name in the layout's index.
        epoch: When it was made.
    """
    blobs = target / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    descriptors = []
    for path, _ in layers:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        shutil.move(path, blobs / digest)
        descriptors.append({"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": size})
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"org.opencontainers.image.version": tag}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}" for _, diff_id in layers]},
        "history": [{"created": created, "created_by": "osimage.build"} for _ in layers],
    }
    manifest: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": write_blob(blobs, as_json(config), _CONFIG),
        "layers": descriptors,
    }
    write_index(target, manifest, tag)


def write_index(target: Path, manifest: dict[str, object], name: str) -> None:
    """Complete the layout `target`, whose blobs are there, by its one manifest, called `name`."""
    entry = write_blob(target / "blobs" / "sha256", as_json(manifest), OCI_MANIFEST)
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry | {"annotations": {"org.opencontainers.image.ref.name": name}}],
    }
    (target / "index.json").write_bytes(as_json(index))
    (target / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))


def as_json(document: object) -> bytes:
    """Return a document as the same bytes each time."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def write_blob(blobs: Path, body: bytes, media_type: str) -> dict[str, object]:
    """Write a blob, and return its descriptor."""
    digest = hashlib.sha256(body).hexdigest()
    (blobs / digest).write_bytes(body)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(body)}


def manifest_of(layout: Path) -> tuple[str, int]:
    """Return digest and size of the image's manifest in a layout."""
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return entry["digest"], entry["size"]


def size_of_layout(layout: Path) -> int:
    """Return how many bytes a registry sends to someone who pulls the image."""
    return sum(blob.stat().st_size for blob in (layout / "blobs" / "sha256").iterdir())
