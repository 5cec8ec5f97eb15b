import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu_node.errors import HostError
from qemu_node.host.files.directories import make_directory, open_directory, open_parents


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
