"""The OCI image and the manifest's signature, made by the build's own tools from a small tree."""

import os
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from osimage.build.artefact import manifest
from osimage.build.artefact.oci import make_oci, manifest_of
from osimage.build.commands import sign_names
from osimage.build.errors import BuildError
from osimage.build.namespace import run_in
from osimage.build.request import PublishRequest
from osimage.build.stages import Stages
from qemu_node.host.process.command import ProcessError
from qemu_node.nodeos.release import IMAGE_ID
from qemu_node.nodeos.upgrade.manifest import VERSION, Manifest, parse_manifest

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(900)]

# cap_net_raw=ep, as `setcap` writes it (include/uapi/linux/capability.h, VFS_CAP_REVISION_2).
_CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for name in ("dev", "run", "etc", "usr/bin"):
        (tree / name).mkdir(parents=True)
    (tree / "usr/bin/ping").write_bytes(bytes(range(256)) * 1000)
    (tree / "usr/bin/again").hardlink_to(tree / "usr/bin/ping")
    (tree / "etc/link").symlink_to("/data")
    (tree / "run/left").touch()
    os.chown(tree / "etc", 5, 7)
    os.setxattr(tree / "usr/bin/ping", "security.capability", _CAPABILITY)
    return tree


def layer_of(layout: Path) -> Path:
    blobs = sorted((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    return blobs[-1]


def test_two_builds_give_the_same_bytes(small_tree: Path, tools: Path, tmp_path: Path) -> None:
    digests = set()
    for number in (1, 2):
        with Stages(tmp_path / f"stages{number}") as fresh:
            layout = make_oci(fresh, tools, small_tree, tag="v1", epoch=7)
            digests.add(manifest_of(layout)[0])
        # The time of the last reading does not count.
        ping = small_tree / "usr/bin/ping"
        os.utime(ping, ns=(number, ping.stat().st_mtime_ns))
    assert len(digests) == 1


def test_the_layer_keeps_owners_links_and_capabilities(
    small_tree: Path, tools: Path, tmp_path: Path
) -> None:
    with Stages(tmp_path / "stages") as fresh:
        layout = make_oci(fresh, tools, small_tree, tag="v1", epoch=7)
        with tarfile.open(layer_of(layout)) as archive:
            members = {member.name: member for member in archive}
    assert members["./etc"].uid == 5
    assert members["./etc"].gid == 7
    assert members["./etc/link"].linkname == "/data"
    pair = [members["./usr/bin/again"], members["./usr/bin/ping"]]
    assert sorted(member.islnk() for member in pair) == [False, True]
    (real,) = [member for member in pair if not member.islnk()]
    capability = real.pax_headers["SCHILY.xattr.security.capability"]
    assert capability.encode("utf-8", "surrogateescape") == _CAPABILITY
    assert "./run/left" not in members
    assert "./run" in members


@pytest.fixture
def key(tools: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir()
    run_in(tools, ["minisign", "-G", "-W", "-s", "/keys/release.key", "-p", "/keys/release.pub"],
           binds={directory: "/keys"})  # fmt: skip
    return directory / "release.key"


def verify(tools: Path, key: Path, document: Path, signature: Path) -> None:
    public = key.with_suffix(".pub")
    run_in(tools, ["minisign", "-V", "-p", "/run/pub", "-m", "/run/doc", "-x", "/run/sig"],
           binds={public: "/run/pub", document: "/run/doc", signature: "/run/sig"})  # fmt: skip


def test_a_signed_manifest_verifies_and_a_changed_one_does_not(tools: Path, key: Path) -> None:
    document, signature = key.parent / "m.json", key.parent / "m.json.minisig"
    document.write_text('{"version":1}\n')
    manifest.sign(tools, key, document, signature)
    assert manifest.public_key(tools, key) == key.with_suffix(".pub").read_bytes()
    verify(tools, key, document, signature)
    document.write_text('{"version":2}\n')
    with pytest.raises(ProcessError):
        verify(tools, key, document, signature)


def test_a_further_tag_needs_the_key(tools: Path, key: Path) -> None:
    document, signature = key.parent / "m.json", key.parent / "m.json.minisig"
    document.write_bytes(
        msgspec.json.encode(
            Manifest(
                version=VERSION, image=IMAGE_ID, tag="v1", created=datetime.now(UTC),
                digest=f"sha256:{'a' * 64}", size_bytes=1, unpacked_bytes=1,
            )
        )
    )  # fmt: skip
    manifest.sign(tools, key, document, signature)
    before = document.read_bytes(), signature.read_bytes()

    def publish(*more_tags: str, key: Path | None) -> PublishRequest:
        return PublishRequest(
            tag="v1", out=document.parent, repository="r.example/node", more_tags=more_tags,
            key=key, is_plain_http=False,
        )  # fmt: skip

    sign_names(tools, document, signature, publish(key=None))
    with pytest.raises(BuildError, match="not signed for all of stable"):
        sign_names(tools, document, signature, publish("stable", key=None))
    assert before == (document.read_bytes(), signature.read_bytes())
    sign_names(tools, document, signature, publish("stable", key=key))
    verify(tools, key, document, signature)
    assert parse_manifest(document.read_bytes(), "m").names == ("stable",)
    sign_names(tools, document, signature, publish("stable", key=None))


def test_a_key_that_is_none_is_refused_with_what_to_do(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "no.key").write_text("nothing\n")
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(BuildError, match="cannot sign") as caught:
        manifest.sign(tools, tmp_path / "no.key", tmp_path / "m.json", tmp_path / "sig")
    assert "minisign -G" in str(caught.value.hint)
    assert not (tmp_path / "sig").exists()
