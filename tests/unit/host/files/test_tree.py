import errno
import os
import resource
import sys
from pathlib import Path

import pytest

from qemu_node.errors import HostError
from qemu_node.host.files.tree import remove_tree


def test_remove_tree_removes_links_and_spares_what_they_point_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "link").symlink_to(kept)
    (tree / "file").touch()
    remove_tree(tree)
    assert not tree.exists()
    assert (kept / "file").exists()

    tree.symlink_to(kept)
    remove_tree(tree)
    assert not tree.is_symlink()
    assert (kept / "file").exists()


def test_remove_tree_of_nothing_or_of_a_file_is_fine(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")
    (tmp_path / "file").touch()
    remove_tree(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_remove_tree_of_any_depth_needs_no_more_files_open(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    directory = os.open(tree, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 500):
        os.mkdir("down", dir_fd=directory)
        os.close(os.open("file", os.O_CREAT, dir_fd=directory))
        below = os.open("down", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The next one that is opened has the lowest free number.
    resource.setrlimit(resource.RLIMIT_NOFILE, (directory + 20, limits[1]))
    try:
        remove_tree(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(directory)
    assert not tree.exists()


def test_remove_tree_goes_on_when_somebody_else_removes_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").touch()
    (tree / "b").touch()
    unlink, calls = os.unlink, 0

    def raced(path: str, *, dir_fd: int | None = None) -> None:
        nonlocal calls
        calls += 1
        unlink(path, dir_fd=dir_fd)
        if calls == 1:
            raise FileNotFoundError(errno.ENOENT, "gone", path)

    monkeypatch.setattr(os, "unlink", raced)
    remove_tree(tree)
    assert not tree.exists()


def test_remove_tree_names_what_it_could_not_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()

    def busy(path: str, *, dir_fd: int | None = None) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    monkeypatch.setattr(os, "rmdir", busy)
    with pytest.raises(HostError, match=r"tree: Device or resource busy"):
        remove_tree(tmp_path / "tree")
