import json

import pytest

from qemu_node.nodeos.upgrade.manifest import ManifestError, parse_manifest

_GOOD: dict[str, object] = {
    "version": 1,
    "image": "nomad-qemu-node",
    "tag": "v2",
    "created": "2026-11-30T10:00:00Z",
    "digest": "sha256:" + "a" * 64,
    "size_bytes": 400_000_000,
    "unpacked_bytes": 900_000_000,
}


def test_a_manifest_says_what_an_upgrade_needs() -> None:
    manifest = parse_manifest(json.dumps(_GOOD).encode(), "m")
    assert manifest.digest == _GOOD["digest"]
    assert manifest.created.isoformat() == "2026-11-30T10:00:00+00:00"


def test_a_later_field_is_no_error() -> None:
    assert parse_manifest(json.dumps(_GOOD | {"notes": "…"}).encode(), "m").tag == "v2"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"image": "other"},
        {"digest": "sha256:short"},
        {"digest": "md5:" + "a" * 64},
        {"tag": "a b"},
        {"tag": ""},
        {"created": "yesterday"},
        {"created": "2026-11-30T10:00:00"},
        {"size_bytes": -1},
        {"unpacked_bytes": "many"},
    ],
)
def test_anything_else_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(json.dumps(_GOOD | change).encode(), "the manifest")


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{" * 10_000, b"null"])
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(ManifestError, match="the manifest"):
        parse_manifest(data, "the manifest")
