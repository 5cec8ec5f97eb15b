import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu_node.errors import HostError, MissingPartError
from qemu_node.host.files.directories import (
    closed_directory,
    make_directory,
    open_directory,
    open_parents,
    require_passage,
)


@pytest.fixture(params=[0o000, 0o022, 0o027, 0o077], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o755, 0o1771, 0o777])
@pytest.mark.parametrize("earlier", [None, 0o700, 0o777])
def test_a_directory_has_its_mode_whatever_the_umask_and_an_earlier_start_left(
    tmp_path: Path, mode: int, earlier: int | None
) -> None:
    path = tmp_path / "a" / "b"
    if earlier is not None:
        path.mkdir(parents=True)
        path.chmod(earlier)
    make_directory(path, mode, gid=os.getgid())
    assert mode_of(path) == mode


def test_parents_that_are_made_can_be_passed_and_others_stay_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    make_directory(tmp_path / "a" / "b" / "c", 0o700)
    assert mode_of(tmp_path / "a") == mode_of(tmp_path / "a" / "b") == 0o755
    assert mode_of(tmp_path) == 0o700


def test_a_directory_that_must_be_open_keeps_what_it_allows_beyond(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    for mode, after in ((None, 0o711), (0o700, 0o711), (0o755, 0o755), (0o1777, 0o1777)):
        if mode is not None:
            path.chmod(mode)
        open_directory(path, 0o711)
        assert mode_of(path) == after


def test_a_link_is_followed_only_where_an_operator_may_put_one(tmp_path: Path) -> None:
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "link"
    elsewhere.mkdir()
    elsewhere.chmod(0o700)
    link.symlink_to(elsewhere)
    with pytest.raises(HostError, match="cannot make"):
        make_directory(link, 0o755)
    assert mode_of(elsewhere) == 0o700
    open_directory(link, 0o711)
    assert mode_of(elsewhere) == 0o711


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for make in (make_directory, open_directory):
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(HostError, match="something else is there"):
                make(path, 0o711)


def test_all_directories_down_to_a_file_are_made(tmp_path: Path) -> None:
    top = tmp_path / "oem"
    open_parents(top, top / "a" / "b" / "key", 0o700)
    assert [mode_of(path) for path in (top, top / "a", top / "a" / "b")] == [0o700] * 3
    assert not (top / "a" / "b" / "key").exists()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return a directory to which everyone may come, as pytest's own are closed."""
    os.umask(0o022)
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
