import gzip
import hashlib
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from spdx_tools.spdx.parser.json.json_parser import parse_from_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from osimage.build.artefact import manifest, sbom
from osimage.build.artefact.iso import require_within_budget
from osimage.build.artefact.oci import manifest_of, size_of_layout, write_layout
from osimage.build.artefact.publish import artefact_layout
from osimage.build.errors import BuildError
from qemu_node.images.registry.manifest import parse_document
from qemu_node.nodeos.upgrade.manifest import MEDIA_TYPE, SIGNATURE_TYPE, parse_manifest


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    layer = tmp_path / "layer"
    layer.write_bytes(gzip.compress(b"content", mtime=0))
    diff_id = hashlib.sha256(b"content").hexdigest()
    write_layout(tmp_path / "oci", [(layer, diff_id)], tag="v1", epoch=0)
    return tmp_path / "oci"


def blob(layout: Path, digest: str) -> bytes:
    body = (layout / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes()
    assert f"sha256:{hashlib.sha256(body).hexdigest()}" == digest
    return body


def test_a_layout_leads_from_its_index_to_the_layer(layout: Path) -> None:
    digest, size = manifest_of(layout)
    body = blob(layout, digest)
    assert len(body) == size
    document = parse_document(body, "test")
    assert document.layers is not None
    (layer,) = document.layers
    assert gzip.decompress(blob(layout, layer.digest)) == b"content"
    config = json.loads(blob(layout, json.loads(body)["config"]["digest"]))
    assert config["created"] == "1970-01-01T00:00:00Z"
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(b'content').hexdigest()}"]


def test_the_index_names_the_tag(layout: Path) -> None:
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "v1"


def test_the_manifest_says_what_is_pulled(layout: Path) -> None:
    said = json.loads(manifest.render(layout, tag="v1", epoch=1, unpacked_bytes=9))
    assert said == {
        "version": 1,
        "image": "nomad-qemu-node",
        "tag": "v1",
        "created": "1970-01-01T00:00:01Z",
        "digest": manifest_of(layout)[0],
        "size_bytes": size_of_layout(layout),
        "unpacked_bytes": 9,
        "names": [],
    }


def test_a_node_reads_the_manifest(layout: Path) -> None:
    said = manifest.render(layout, tag="v1", epoch=1, unpacked_bytes=9)
    assert parse_manifest(said.encode(), "test").digest == manifest_of(layout)[0]


def test_a_manifest_is_signed_anew_only_for_a_name_that_it_has_not(layout: Path) -> None:
    first = manifest.render(layout, tag="v1", epoch=1, unpacked_bytes=9).encode()
    assert manifest.with_names(first, ["v1"], "test") == first
    second = manifest.with_names(first, ["v1", "stable", "stable"], "test")
    assert parse_manifest(second, "test").names == ("stable",)
    assert manifest.with_names(second, ["stable", "v1"], "test") == second
    third = manifest.with_names(second, ["v1", "testing"], "test")
    assert parse_manifest(third, "test").names == ("stable", "testing")
    assert parse_manifest(third, "test").digest == parse_manifest(first, "test").digest


def test_the_artefact_has_manifest_and_signature(tmp_path: Path) -> None:
    (tmp_path / "manifest").write_text("{}")
    (tmp_path / "signature").write_text("signed")
    artefact_layout(tmp_path / "out", tmp_path / "manifest", tmp_path / "signature")
    document = json.loads(blob(tmp_path / "out", manifest_of(tmp_path / "out")[0]))
    assert document["artifactType"] == MEDIA_TYPE
    assert [layer["mediaType"] for layer in document["layers"]] == [MEDIA_TYPE, SIGNATURE_TYPE]
    assert blob(tmp_path / "out", document["layers"][1]["digest"]) == b"signed"


def test_the_list_of_parts_is_spdx() -> None:
    parts = [
        *sbom.debian_parts({"libc6": "2.41-12", "qemu-utils": "1:10.0.13+ds-0"}),
        *sbom.python_parts([("aiohttp", "3.14"), ("backports.zstd", "1.8")]),
        sbom.Part(name="nomad", version="2.0.6", supplier="NOASSERTION", sha256="0" * 64),
    ]
    text = sbom.render(parts, tag="v1", digest="abc", epoch=0)
    document = json.loads(text)
    assert document["spdxVersion"] == "SPDX-2.3"
    identities = [package["SPDXID"] for package in document["packages"]]
    assert len(set(identities)) == len(identities) == 6
    related = {relation["relatedSpdxElement"] for relation in document["relationships"]}
    assert related == set(identities)
    purls = [
        reference["referenceLocator"]
        for package in document["packages"]
        for reference in package.get("externalRefs", [])
    ]
    assert "pkg:deb/debian/qemu-utils@1%3A10.0.13%2Bds-0?arch=amd64&distro=debian-13" in purls
    assert "pkg:pypi/aiohttp@3.14" in purls
    assert text == sbom.render(parts, tag="v1", digest="abc", epoch=0)


def test_the_list_of_parts_passes_the_validator_of_spdx(tmp_path: Path) -> None:
    parts = [
        *sbom.debian_parts({"libc6": "2.41-12", "g++": "4:14.2.0-1", "qemu-utils": "1:10.0+ds-0"}),
        *sbom.python_parts([("aiohttp", "3.14"), ("backports.zstd", "1.8")]),
        sbom.Part(
            name="nomad", version="", supplier="NOASSERTION", sha256="0" * 64, comment="local"
        ),
    ]
    path = tmp_path / "image.spdx.json"
    path.write_text(sbom.render(parts, tag="v1.0_2-rc", digest="abc", epoch=0))
    document = parse_from_file(str(path))
    assert validate_full_spdx_document(document) == []
    assert len(document.packages) == 1 + len(parts)
    document.creation_info.spdx_id = "nothing"
    assert validate_full_spdx_document(document) != []


@pytest.mark.parametrize(("size", "is_right"), [(500_000_000, True), (500_000_001, False)])
def test_an_iso_that_has_outgrown_its_budget_fails_the_build(
    tmp_path: Path, size: int, *, is_right: bool
) -> None:
    iso = tmp_path / "iso"
    with iso.open("wb") as file:
        file.truncate(size)
    with nullcontext() if is_right else pytest.raises(BuildError, match="500 MB, more than 500"):
        require_within_budget(iso)


def test_python_packages_are_read_from_the_environment(tmp_path: Path) -> None:
    site = tmp_path / "usr/lib/qemu-node/venv/lib/python3.13/site-packages"
    (site / "aiohttp-3.dist-info").mkdir(parents=True)
    (site / "aiohttp-3.dist-info/METADATA").write_text("Name: aiohttp\nVersion: 3\n\nText\n")
    assert sbom.python_packages(tmp_path) == [("aiohttp", "3")]
