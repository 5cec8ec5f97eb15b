import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.images.errors import ChecksumMismatchError, ImageRefusedError
from qemu_node.images.registry.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_BYTES,
    Descriptor,
    check_digest,
    choose_layer,
    choose_manifest,
    digest_of,
    parse_document,
)

SHOWN = "oci://registry.example.org/image:1"
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
TAR = "application/vnd.oci.image.layer.v1.tar"


def descriptor(digest: str = DIGEST, **more: Any) -> dict[str, Any]:
    return {"digest": digest, "size": 1024, **more}


def platform(architecture: str, system: str = "linux") -> dict[str, Any]:
    return {"platform": {"architecture": architecture, "os": system}}


def encode(**document: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **document}).encode()


def layer(*layers: dict[str, Any]) -> Descriptor:
    return choose_layer(parse_document(encode(layers=layers), SHOWN), SHOWN)


def chosen(*manifests: dict[str, Any]) -> str:
    return choose_manifest(parse_document(encode(manifests=manifests), SHOWN), SHOWN).digest


@pytest.mark.parametrize("media_type", MANIFEST_TYPES)
def test_a_manifest_of_either_family_has_its_layer(media_type: str) -> None:
    body = encode(
        mediaType=media_type,
        config=descriptor(OTHER, mediaType="application/vnd.oci.empty.v1+json"),
        layers=[descriptor(mediaType="application/octet-stream")],
        annotations={"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
    )
    found = choose_layer(parse_document(body, SHOWN), SHOWN)
    assert (found.digest, found.size) == (DIGEST, 1024)


@pytest.mark.parametrize("media_type", INDEX_TYPES)
def test_of_an_index_the_image_for_this_machine_counts(media_type: str) -> None:
    manifests = [
        descriptor("sha256:" + "c" * 64, **platform("arm64")),
        descriptor("sha256:" + "d" * 64, **platform("amd64", "windows")),
        descriptor(DIGEST, **platform("amd64")),
        descriptor(OTHER, **platform("amd64")),
        descriptor("sha256:" + "e" * 64, **platform("unknown", "unknown")),
    ]
    index = parse_document(encode(mediaType=media_type, manifests=manifests), SHOWN)
    assert choose_manifest(index, SHOWN).digest == DIGEST


def test_an_index_of_one_manifest_needs_no_platform() -> None:
    assert chosen(descriptor()) == DIGEST


ATTESTATION = descriptor(
    OTHER,
    annotations={
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": DIGEST,
    },
    **platform("unknown", "unknown"),
)


@pytest.mark.parametrize(
    "manifests",
    [
        [ATTESTATION, descriptor(**platform("x86_64"))],
        [descriptor(**platform("AMD64", "Linux")), ATTESTATION],
        [descriptor(), ATTESTATION],
        [descriptor(platform=None), ATTESTATION],
        [descriptor(platform={})],
        [descriptor(platform={"architecture": None, "os": None})],
        [descriptor(platform={"architecture": "amd64"})],
        [descriptor(platform={"architecture": "amd64", "os": None, "variant": None})],
        [descriptor(OTHER, **platform("amd64", "windows")), descriptor(**platform("amd64"))],
        [descriptor(**platform("amd64", "windows"))],
        [
            descriptor(OTHER, platform={"architecture": "amd64", "os": "linux", "variant": "v3"}),
            descriptor(platform={"architecture": "amd64", "os": "linux", "variant": "v2"}),
        ],
        [
            descriptor(OTHER, platform={"architecture": "amd64", "os": "linux", "variant": "v2"}),
            descriptor(**platform("amd64")),
        ],
        [descriptor(mediaType=None, annotations=None)],
    ],
)
def test_indexes_are_read_as_registries_hold_them(manifests: list[dict[str, Any]]) -> None:
    assert chosen(*manifests) == DIGEST


@pytest.mark.parametrize(
    "manifests",
    [
        [],
        [ATTESTATION],
        [descriptor(**platform("amd64", "darwin"))],
        [descriptor(), descriptor(OTHER)],
        [descriptor(**platform("arm64"))],
        [descriptor(**platform("arm64")), descriptor()],
    ],
)
def test_an_index_without_an_image_for_this_machine_is_refused(
    manifests: list[dict[str, Any]],
) -> None:
    with pytest.raises(ImageRefusedError, match="no image for linux/amd64"):
        chosen(*manifests)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b"{", b"\xff", b"[" * 100_000,
        b'{"schemaVersion": 2, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "layers": []}',
        encode(),
        encode(layers=[], manifests=[]),
        encode(layers=[], mediaType=INDEX_TYPES[0]),
        encode(manifests=[], mediaType=MANIFEST_TYPES[0]),
        encode(layers=[], mediaType="text/html"),
        json.dumps({"schemaVersion": 1, "layers": []}).encode(),
        encode(layers=[descriptor("md5:" + "a" * 32)]),
        encode(layers=[descriptor("sha256:" + "A" * 64)]),
        encode(layers=[descriptor(DIGEST + "\n")]),
        encode(layers=[descriptor("../../etc/passwd")]),
        encode(layers=[{"digest": DIGEST, "size": -1}]),
        encode(layers=[{"digest": DIGEST, "size": 1 << 80}]),
        encode(layers=[{"digest": DIGEST, "size": 1.5}]),
        encode(layers=[{"digest": DIGEST}]),
        encode(layers=[descriptor()] * 1025),
        encode(layers=[descriptor(annotations={"a": 1})]),
        encode(layers=[descriptor()]) + b" " * MAX_BYTES,
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused_without_repeating_it(body: bytes) -> None:
    with pytest.raises(ImageRefusedError, match="not the manifest") as error:
        parse_document(body, SHOWN)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("layers", [[], [descriptor(), descriptor(OTHER)]])
def test_a_disk_is_one_layer(layers: list[dict[str, Any]]) -> None:
    with pytest.raises(ImageRefusedError, match=f"has {len(layers)} layers") as error:
        layer(*layers)
    assert "oras push" in error.value.explain()


@pytest.mark.parametrize(
    "refused",
    [
        descriptor(mediaType=TAR),
        descriptor(mediaType=f"{TAR}+gzip"),
        descriptor(mediaType="application/vnd.docker.image.rootfs.diff.tar.gzip"),
        descriptor(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        descriptor(
            mediaType=f"{TAR}+gzip",
            annotations={
                "org.opencontainers.image.title": "disk",
                "io.deis.oras.content.unpack": "true",
            },
        ),
        descriptor(
            mediaType="application/octet-stream",
            annotations={"org.opencontainers.image.title": "rootfs.TAR.gz"},
        ),
    ],
)
def test_an_archive_of_files_is_no_disk(refused: dict[str, Any]) -> None:
    with pytest.raises(ImageRefusedError, match="for containers") as error:
        layer(refused)
    assert "oras push" in error.value.explain()


@pytest.mark.parametrize(
    "accepted",
    [
        descriptor(),
        descriptor(mediaType="application/octet-stream"),
        descriptor(mediaType="application/vnd.example.disk.qcow2"),
        descriptor(mediaType="application/zstd", annotations={}),
        descriptor(mediaType=TAR, annotations={"org.opencontainers.image.title": "disk.qcow2"}),
    ],
)
def test_a_file_is_a_disk_whatever_it_is_called(accepted: dict[str, Any]) -> None:
    assert layer(accepted).digest == DIGEST


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_must_be_what_its_digest_names(algorithm: str) -> None:
    digest = digest_of(b"manifest", algorithm)
    check_digest(b"manifest", digest, SHOWN)
    with pytest.raises(ChecksumMismatchError, match="another manifest"):
        check_digest(b"manifesT", digest, SHOWN)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=20,
)
_DESCRIPTORS = st.lists(
    st.fixed_dictionaries(
        {"digest": st.sampled_from([DIGEST, OTHER, ""]), "size": st.integers()},
        optional={"mediaType": _JSON, "platform": _JSON, "annotations": _JSON, "urls": _JSON},
    ),
    max_size=3,
)


@given(
    st.fixed_dictionaries(
        {"schemaVersion": st.just(2) | _JSON},
        optional={"layers": _DESCRIPTORS | _JSON, "manifests": _DESCRIPTORS | _JSON},
    )
)
def test_any_answer_leads_to_a_digest_or_a_refusal(document: dict[str, Any]) -> None:
    try:
        parsed = parse_document(json.dumps(document).encode(), SHOWN)
        choose = choose_manifest if parsed.manifests is not None else choose_layer
        assert choose(parsed, SHOWN).digest in (DIGEST, OTHER)
    except ImageRefusedError as exc:
        assert len(str(exc)) < 200  # noqa: PT017 - either outcome is right


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    with pytest.raises(ImageRefusedError):
        parse_document(body, SHOWN)
