import os
from pathlib import Path

from qemu_node.nodeos.upgrade.verify import (
    describe,
    differences,
    list_tree,
    read_listing,
    write_listing,
)


def _tree(root: Path) -> Path:
    for name in ("usr/bin", "etc", "run", "proc"):
        (root / name).mkdir(parents=True)
    (root / "usr/bin/nomad").write_bytes(b"x" * 3_000_000)
    (root / "etc/hosts").write_text("localhost\n")
    (root / "etc/link").symlink_to("../usr/bin/nomad")
    (root / "run/gone").write_text("of this boot")
    os.mkfifo(root / "etc/pipe")
    return root


def test_the_same_tree_has_no_differences(tmp_path: Path) -> None:
    listing = list_tree(_tree(tmp_path / "a"))
    again = _tree(tmp_path / "b")
    (again / "lost+found").mkdir()
    (again / "etc/more").write_text("Elemental adds some")
    (again / "run/gone").unlink()
    assert differences(listing, again) == []


def test_zeros_cuts_and_missing_files_are_found(tmp_path: Path) -> None:
    listing = list_tree(_tree(tmp_path / "a"))
    again = _tree(tmp_path / "b")
    with (again / "usr/bin/nomad").open("r+b") as file:
        file.seek(2_000_000)
        file.write(bytes(4096))
    (again / "etc/hosts").write_text("")
    (again / "etc/link").unlink()
    wrong = differences(listing, again)
    assert sorted(wrong) == ["etc/hosts", "etc/link", "usr/bin/nomad"]


def test_a_listing_survives_the_way_between_two_hooks(tmp_path: Path) -> None:
    listing = list_tree(_tree(tmp_path / "a"))
    path = tmp_path / "run/tree"
    assert read_listing(path) is None
    write_listing(path, listing)
    assert read_listing(path) == listing
    path.write_bytes(b"half")
    assert read_listing(path) is None


def test_many_differences_are_told_in_few_words() -> None:
    assert describe(["a", "b"]) == "/a, /b"
    assert describe(["a", "b", "c", "d", "e"]) == "/a, /b, /c and 2 more"
