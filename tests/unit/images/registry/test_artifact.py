import json

import pytest

from qemu_node.images.errors import ChecksumMismatchError, ImageRefusedError
from qemu_node.images.http.httpfile import HttpFile
from qemu_node.images.http.small import SmallAnswer
from qemu_node.images.registry.artifact import fetch_artifact
from qemu_node.images.registry.manifest import MANIFEST_TYPES, digest_of
from qemu_node.images.source.name import OciSource

_SOURCE = OciSource("r.example", "team/node", "v2.manifest")
_FILES = {"text/a": b"content", "text/b": b"signature"}


class _Registry:
    """Gives the manifest, then blobs by their digest."""

    def __init__(self, layers: list[dict[str, object]], blobs: dict[str, bytes]) -> None:
        self._manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "layers": layers}
        ).encode()
        self._blobs = blobs
        self.asked: list[str] = []

    async def __call__(self, file: HttpFile, *, max_bytes: int) -> SmallAnswer:
        self.asked.append(file.url)
        body = self._blobs.get(file.url.rpartition("/")[2], self._manifest)
        assert len(body) <= max_bytes
        return SmallAnswer(status=200, headers={}, body=body)


def _layers(**change: object) -> list[dict[str, object]]:
    return [
        {"mediaType": kind, "digest": digest_of(body), "size": len(body)} | change
        for kind, body in _FILES.items()
    ]


_BLOBS = {digest_of(body): body for body in _FILES.values()}


async def test_the_files_come_in_the_order_in_which_they_are_asked_for() -> None:
    registry = _Registry(_layers(), _BLOBS)
    found = await fetch_artifact(_SOURCE, None, ("text/b", "text/a"), fetch_small=registry)
    assert found == [b"signature", b"content"]
    assert registry.asked[0] == "https://r.example/v2/team/node/manifests/v2.manifest"


async def test_another_content_than_the_manifest_names_is_refused() -> None:
    registry = _Registry(_layers(), dict.fromkeys(_BLOBS, b"x"))
    with pytest.raises(ChecksumMismatchError):
        await fetch_artifact(_SOURCE, None, ("text/a",), fetch_small=registry)


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        (_layers(), "text/c"),
        (_layers() * 2, "text/a"),
        (_layers(size=5 << 20), "text/a"),
        ([], "text/a"),
    ],
)
async def test_an_artifact_without_exactly_one_such_file_is_refused(
    layers: list[dict[str, object]], kind: str
) -> None:
    with pytest.raises(ImageRefusedError, match="has no file of the type"):
        await fetch_artifact(_SOURCE, None, (kind,), fetch_small=_Registry(layers, _BLOBS))
