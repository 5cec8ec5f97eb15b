import os
from pathlib import Path

import pytest

from qemu_node.errors import MissingPartError
from qemu_node.host.files.passage import closed_directory, require_passage


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return a directory to which everyone may come, as pytest's own are closed."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and not directory.stat().st_mode & 0o001:
            directory.chmod(0o711)
    return tmp_path


def test_directories_that_let_others_pass_are_open_and_missing_ones_will_be_made(
    top: Path,
) -> None:
    (top / "a").mkdir()
    (top / "a").chmod(0o711)
    assert closed_directory(top / "a" / "missing" / "data") is None


def test_the_topmost_closed_directory_is_named_with_the_mode_it_needs(top: Path) -> None:
    inner = top / "closed" / "also"
    inner.mkdir(parents=True)
    inner.chmod(0o750)
    inner.parent.chmod(0o700)
    with pytest.raises(MissingPartError) as caught:
        require_passage(inner / "d" / "vm", "paths.data")
    text = caught.value.explain()
    assert f"{top}/closed (mode 0700)" in text
    assert f"chmod 0711 {top}/closed" in text
    assert "paths.data" in text
    inner.parent.chmod(0o711)
    with pytest.raises(MissingPartError, match="also"):
        require_passage(inner / "d" / "vm", "paths.data")


def test_the_directory_itself_is_its_makers_to_open(top: Path) -> None:
    (top / "own").mkdir(mode=0o700)
    assert closed_directory(top / "own") is None
    assert closed_directory(top / "own" / "below") is not None


def test_what_a_link_leads_through_counts(top: Path) -> None:
    closed = top / "closed"
    (closed / "data").mkdir(parents=True)
    closed.chmod(0o700)
    (top / "link").symlink_to(closed / "data")
    found = closed_directory(top / "link" / "vm")
    assert found is not None
    assert found.path == closed
