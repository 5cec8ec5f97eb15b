import pytest

from qemu_node.config.node import NodeConfig
from qemu_node.config.nodeos import OsConfig
from qemu_node.errors import ConfigError
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.release import Release
from qemu_node.nodeos.upgrade.source import Target, choose_source, find_target, parse_system

_DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "text",
    [
        "oci:r.example:5000/team/node:v2",
        "oci://r.example:5000/team/node:v2",
        "docker:r.example:5000/team/node:v2",
        "r.example:5000/team/node:v2",
    ],
)
def test_an_image_is_named_with_or_without_elementals_scheme(text: str) -> None:
    source = parse_system(text)
    assert (source.registry, source.repository, source.reference) == (
        "r.example:5000", "team/node", "v2",
    )  # fmt: skip


def test_elemental_gets_the_image_by_its_digest() -> None:
    target = Target(source=parse_system(f"r.example/node:v2@{_DIGEST}"))
    assert target.system == f"oci:r.example/node@{_DIGEST}"


@pytest.mark.parametrize("text", ["dir:/tmp/x", "file:///x", "Not An Image", "r.example", ""])
def test_what_is_no_image_of_a_registry_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_system(text)


def test_the_option_comes_first_then_node_toml_then_the_running_image() -> None:
    config = NodeConfig(os=OsConfig(source="config.example/node:stable"))
    release = Release(source="release.example/node:stable")
    assert choose_source("option.example/node:v1", config, release).registry == "option.example"
    assert choose_source(None, config, release).registry == "config.example"
    assert choose_source(None, NodeConfig(), release).registry == "release.example"
    with pytest.raises(ConfigError, match="no image is named"):
        choose_source(None, NodeConfig(), Release())


async def test_a_digest_needs_no_manifest() -> None:
    source = parse_system(f"r.example/node@{_DIGEST}")
    target = await find_target(source, NodeConfig(), NodePaths())
    assert target.digest == _DIGEST
    assert not target.is_signed
