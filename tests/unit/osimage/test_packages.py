import pytest

from osimage.build.errors import BuildError
from osimage.build.tree.packages import (
    differences,
    format_record,
    parse_list,
    parse_record,
    pins,
)
from osimage.build.tree.steps import PACKAGES


def test_a_list_is_names_with_reasons() -> None:
    assert parse_list("# Boot\n\nudev  # devices\nkmod # modules\n") == ["kmod", "udev"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("udev\n", "has no reason"),
        ("udev #\n", "has no reason"),
        ("Udev # devices\n", "not a package"),
        ("udev kmod # devices\n", "not a package"),
        ("--option # devices\n", "not a package"),
        ("udev # devices\nudev # again\n", "twice"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        parse_list(text)


def test_the_list_of_the_image_is_right() -> None:
    assert "qemu-system-x86" in parse_list(PACKAGES.read_text())


def test_a_record_reads_back() -> None:
    versions = {"udev": "257.13-1~deb13u1", "libc6": "2.41-12", "qemu-utils": "1:10.0.13+ds-0"}
    assert parse_record(format_record(versions)) == versions


@pytest.mark.parametrize("line", ["udev", "udev 1 2", "udev ;rm", "UDEV 1", "udev -1"])
def test_a_wrong_record_is_refused(line: str) -> None:
    with pytest.raises(BuildError, match="line 1 of the record"):
        parse_record(line)


def test_pins_allow_the_recorded_versions_and_nothing_else() -> None:
    text = pins({"udev": "257"})
    assert "Package: *\nPin: release *\nPin-Priority: -1\n" in text
    assert "Package: udev\nPin: version 257\nPin-Priority: 1001\n" in text


def test_differences_name_what_is_other_missing_or_new() -> None:
    recorded, installed = {"a1": "1", "b1": "1", "c1": "1"}, {"a1": "1", "b1": "2", "d1": "1"}
    assert differences(recorded, installed) == [
        "b1: 1 recorded, 2 installed",
        "c1: 1 recorded, not installed",
        "d1: not recorded, 1 installed",
    ]
