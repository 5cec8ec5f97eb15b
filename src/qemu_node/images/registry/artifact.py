"""A small artifact of a registry: a manifest whose layers are files, told apart by media type.

Owns reading such files whole. Does not own what they mean, nor images (`oci`).
"""

from collections.abc import Sequence

from qemu_node.images.errors import ChecksumMismatchError, ImageRefusedError
from qemu_node.images.registry.manifest import digest_of, parse_document
from qemu_node.images.registry.oci import FetchSmall, Registry
from qemu_node.images.source.credentials import Credential
from qemu_node.images.source.name import OciSource

_FILE_MAX_BYTES = 1 << 20
_OK = 200


async def fetch_artifact(
    source: OciSource,
    credential: Credential | None,
    media_types: Sequence[str],
    *,
    fetch_small: FetchSmall,
) -> list[bytes]:
    """Return the files of the artifact `source`, one for each of `media_types`.

    Each is what the artifact's manifest says by its digest. Whether the manifest is the right one
    is for a signature to say.

    Raises:
        ImageDownloadError: the registry does not answer as it should.
        ImageRefusedError: it refuses, or the artifact has no such files.
        ChecksumMismatchError: it gave something else than the digest names.
    """
    registry = Registry(source, credential, fetch_small)
    wanted = source.reference if source.is_digest else None
    body = await registry.manifest(source.reference, wanted)
    layers = parse_document(body, source.shown).layers or ()
    files = []
    for media_type in media_types:
        found = [layer for layer in layers if layer.media_type == media_type]
        if len(found) != 1 or found[0].size > _FILE_MAX_BYTES:
            raise ImageRefusedError(f"{source.shown} has no file of the type {media_type}")
        [layer] = found
        file = registry.blob(layer.digest, layer.size)
        answer = await fetch_small(file, max_bytes=_FILE_MAX_BYTES)
        algorithm = layer.digest.partition(":")[0]
        if answer.status != _OK or digest_of(answer.body, algorithm) != layer.digest:
            raise ChecksumMismatchError(
                f"{source.shown}: the registry gave another file than {layer.digest}"
            )
        files.append(answer.body)
    return files
