"""An image and its manifest in a registry.

Owns the order: a node that reads a tag's manifest finds what that names. Does not own the documents
(`manifest`, `oci`) nor who may push: skopeo takes logins from where it keeps them.

Under each tag: the image as TAG, the manifest and its signature as the artefact TAG.manifest.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from osimage.build.artefact.oci import OCI_MANIFEST, manifest_of, write_blob, write_index
from osimage.build.errors import BuildError
from osimage.build.tools import run_skopeo
from qemu_node.host.process.command import ProcessError
from qemu_node.nodeos.upgrade.manifest import MEDIA_TYPE, SIGNATURE_TYPE, parse_manifest

_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def artefact_layout(target: Path, manifest: Path, signature: Path) -> None:
    """Write an OCI layout of the two files (image-spec 1.1, "Guidelines for Artifact Usage")."""
    blobs = target / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": MEDIA_TYPE,
        "config": write_blob(blobs, b"{}", _EMPTY_TYPE),
        "layers": [
            write_blob(blobs, manifest.read_bytes(), MEDIA_TYPE),
            write_blob(blobs, signature.read_bytes(), SIGNATURE_TYPE),
        ],
    }
    write_index(target, document, "manifest")


def publish(
    tools: Path,
    layout: Path,
    manifest: Path,
    signature: Path,
    *,
    repository: str,
    tag: str,
    more_tags: Sequence[str],
    scratch: Path,
    is_plain_http: bool,
) -> list[str]:
    """Push an image and its manifest under `tag` and `more_tags`; return the names of the images.

    Args:
        tools: A root with skopeo.
        layout: The image.
        manifest: What says the image's digest.
        signature: Of the manifest.
        repository: registry/repository.
        tag: The image's own tag.
        more_tags: Further tags, such as `stable`.
        scratch: An empty directory.
        is_plain_http: The registry has no TLS.

    Raises:
        BuildError: the manifest is not the image's, or the registry does not take it or changes it.
    """
    digest, _ = manifest_of(layout)
    said = parse_manifest(manifest.read_bytes(), str(manifest))
    if (said.digest, said.tag) != (digest, tag):
        raise BuildError(
            f"{manifest} is of {said.tag}@{said.digest}, and the image is {tag}@{digest}",
            hint="a build was ended before it was done: build it again",
        )
    artefact = scratch / "artefact"
    if artefact.exists():
        shutil.rmtree(artefact)
    artefact_layout(artefact, manifest, signature)
    tls = [f"--dest-tls-verify={'false' if is_plain_http else 'true'}"]
    names = []
    try:
        for name in (tag, *more_tags):
            # The image first: who sees the new manifest can pull what it names.
            for source, seen, target in (
                (layout.resolve(), f"oci:/work/layout:{tag}", f"{repository}:{name}"),
                (artefact.resolve(), "oci:/work/layout:manifest", f"{repository}:{name}.manifest"),
            ):
                run_skopeo(
                    tools, ["copy", "--preserve-digests", *tls, seen, f"docker://{target}"],
                    binds={source: "/work/layout"},
                )  # fmt: skip
            names.append(f"{repository}:{name}@{digest}")
    except ProcessError as exc:
        raise BuildError(f"cannot push to {repository}: {exc}", hint=_HINT) from exc
    return names


_HINT = "log in with `skopeo login` or `docker login`; a registry without TLS needs --plain-http"
