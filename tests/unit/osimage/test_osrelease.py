import pytest

from osimage.build.errors import BuildError
from osimage.build.tree.osrelease import check_tag, extend, image_lines
from qemu_node.nodeos.release import parse_release


@pytest.mark.parametrize("tag", ["v1", "0.1.0-6527ef2", "stable", "_x.y"])
def test_tags_of_a_registry_are_tags(tag: str) -> None:
    check_tag(tag)


@pytest.mark.parametrize("tag", ["", ".x", "a b", "a/b", "a:b", "x" * 129, "v1.manifest", "a'b"])
def test_other_words_are_no_tags(tag: str) -> None:
    with pytest.raises(BuildError, match="not a tag"):
        check_tag(tag)


def test_the_node_reads_what_the_build_writes() -> None:
    lines = image_lines(
        tag="v1", version="0.1.0", source="r.example/os:stable",
        local_binaries=("nomad", "elemental"), epoch=7,
    )  # fmt: skip
    text = extend('PRETTY_NAME="Debian GNU/Linux 13"\nID=debian\nIMAGE_TAG="old"\n', lines)
    release = parse_release(text)
    assert release.pretty_name == "Nomad QEMU node v1"
    assert release.tag == "v1"
    assert release.version == "0.1.0"
    assert release.source == "r.example/os:stable"
    assert release.local_binaries == ("nomad", "elemental")


def test_keys_are_replaced_and_others_kept() -> None:
    assert extend("ID=debian\nIMAGE_TAG=old\n", {"IMAGE_TAG": "v1"}) == (
        'ID=debian\nIMAGE_TAG="v1"\n'
    )


@pytest.mark.parametrize("value", ['a"b', "a$(b)", "a`b`", "a\nb", "a\\b"])
def test_a_value_that_a_shell_would_expand_is_refused(value: str) -> None:
    with pytest.raises(BuildError):
        extend("", {"IMAGE_SOURCE": value})
