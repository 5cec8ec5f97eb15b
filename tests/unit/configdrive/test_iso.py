import re
from pathlib import Path

import pytest
from fakes.isoreader import read_image
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qemu_node.configdrive.iso import write_iso
from qemu_node.errors import JobError


@pytest.mark.parametrize(
    "name",
    [
        "a:b", "a*b", "a?b", "a;1", "a\\b", "a\nb", "x" * 65, "smile-\U0001f600", "a\udcffb",
        "a//b", "../x", "/x", "./x", "", "/".join("abcdefghi"), "/".join(["x" * 60] * 3),
    ],
)  # fmt: skip
def test_name_that_an_iso_cannot_hold_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobError, match=re.escape(repr(name))):
        write_iso(tmp_path / "drive.iso", {name: b""}, None)
    assert list(tmp_path.iterdir()) == []


def test_file_where_a_directory_is_needed_is_refused(tmp_path: Path) -> None:
    drive = {"openstack": b"", "openstack/latest/meta_data.json": b"{}"}
    with pytest.raises(JobError, match="'openstack' must be a directory"):
        write_iso(tmp_path / "drive.iso", drive, None)


def test_iso_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    write_iso(tmp_path / "drive.iso", {"a": b""}, None)
    assert (tmp_path / "drive.iso").stat().st_mode & 0o777 == 0o400


paths = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=70),
    min_size=1,
    max_size=9,
).map("/".join)


@settings(max_examples=60)
@example({"é" * 33: b""})
@example({f"{n:064}": b"" for n in range(256)})
@given(st.dictionaries(paths, st.binary(max_size=20), max_size=4))
def test_any_names_make_an_iso_or_the_jobs_error(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-names.iso"
    path.unlink(missing_ok=True)
    try:
        write_iso(path, files, None)
    except JobError:
        assert not path.exists()
    else:
        assert read_image(path.read_bytes()) == {"joliet": files, "rock ridge": files}
