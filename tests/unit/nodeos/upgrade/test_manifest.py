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


@pytest.mark.parametrize(
    ("names", "name", "is_for"),
    [
        (["stable"], "stable", True),
        (["testing"], "stable", False),
        (["stable"], "v2", True),
        (["stable"], "stable.manifest", False),
        (None, "v2", True),
        (None, "stable", False),
    ],
)
def test_a_manifest_is_for_its_own_tag_and_the_names_it_was_signed_for(
    names: list[str] | None, name: str, *, is_for: bool
) -> None:
    """Also one of a build that did not know names."""
    document = _GOOD | ({} if names is None else {"names": names})
    assert parse_manifest(json.dumps(document).encode(), "m").is_for(name) is is_for


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
        {"names": "stable"},
        {"names": ["a b"]},
        {"names": ["n"] * 101},
    ],
)
def test_anything_else_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(json.dumps(_GOOD | change).encode(), "the manifest")


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{" * 10_000, b"null"])
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(ManifestError, match="the manifest"):
        parse_manifest(data, "the manifest")
