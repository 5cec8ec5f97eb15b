from pathlib import Path

import pytest

from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import Release, parse_release, read_release

_IMAGE = """\
PRETTY_NAME="Nomad QEMU node 1.4"
# IMAGE_TAG=commented
IMAGE_ID=nomad-qemu-node
IMAGE_TAG=v1.4
IMAGE_VERSION='1.4'
IMAGE_SOURCE=registry.example:5000/nomad-qemu-node:stable
IMAGE_LOCAL_BINARIES="nomad elemental"
"""


def test_the_fields_of_an_image_are_read_with_any_quotes() -> None:
    release = parse_release(_IMAGE)
    assert release == Release(
        pretty_name="Nomad QEMU node 1.4",
        image_id="nomad-qemu-node",
        tag="v1.4",
        version="1.4",
        source="registry.example:5000/nomad-qemu-node:stable",
        local_binaries=("nomad", "elemental"),
    )
    assert release.is_node_os


@pytest.mark.parametrize(
    "text", ["", "ID=debian\nVERSION_ID=13\n", "IMAGE_TAG=\n", 'IMAGE_TAG="open\n', "no equals"]
)
def test_another_system_has_no_tag(text: str) -> None:
    assert not parse_release(text).is_node_os


def test_a_system_without_os_release_is_no_node(tmp_path: Path) -> None:
    assert read_release(NodePaths(tmp_path)) == Release()


def test_it_is_read_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(_IMAGE)
    assert read_release(NodePaths(tmp_path)).tag == "v1.4"
