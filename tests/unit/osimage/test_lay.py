import os
from pathlib import Path, PurePosixPath

import pytest

from osimage.build.errors import BuildError
from osimage.build.tree import tidy as tidy_module
from osimage.build.tree.initrd import goes_into_initrd, initrd_files
from osimage.build.tree.lay import lay, resolve
from osimage.build.tree.steps import FILES
from osimage.build.tree.tidy import clamp_times, size_of, tidy


@pytest.fixture(autouse=True)
def nobody_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chown", lambda *_args: None)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    (files / "usr/lib/x").mkdir(parents=True)
    (files / "usr/lib/x/run").write_text("#!/bin/sh\n")
    (files / "usr/lib/x/run").chmod(0o775)
    (files / "usr/lib/x/data").write_text("new")
    (files / "usr/lib/x/data").chmod(0o600)
    (files / "usr/lib/x/link").symlink_to("/dev/null")
    return files


def test_files_come_with_the_modes_of_git(files: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    lay(files, root)
    modes = {path.name: path.lstat().st_mode & 0o777 for path in (root / "usr/lib/x").iterdir()}
    assert modes["run"] == 0o755
    assert modes["data"] == 0o644
    assert (root / "usr/lib/x").stat().st_mode & 0o777 == 0o755


def test_a_link_in_the_root_is_replaced_and_not_followed(files: Path, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "usr/lib/x").mkdir(parents=True)
    outside.write_text("old")
    (root / "usr/lib/x/data").symlink_to(outside)
    lay(files, root)
    assert outside.read_text() == "old"
    assert (root / "usr/lib/x/data").read_text() == "new"
    assert (root / "usr/lib/x/link").readlink() == Path("/dev/null")


def test_a_directory_that_is_there_keeps_its_mode(files: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/lib/x").mkdir(parents=True)
    (root / "usr/lib/x").chmod(0o700)
    lay(files, root)
    assert (root / "usr/lib/x").stat().st_mode & 0o777 == 0o700


def test_only_what_is_wanted_is_laid(files: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    lay(files, root, only=lambda path: path.name == "run")
    assert [path.name for path in (root / "usr/lib/x").iterdir()] == ["run"]


def test_nothing_outside_the_root_is_changed_by_links_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen from this machine, /var/run and /tmp are not the image's."""
    root, outside, overlay = tmp_path / "root", tmp_path / "outside", tmp_path / "overlay"
    for directory in (root / "var", root / "etc/ssh", outside, overlay / "var/run/x"):
        directory.mkdir(parents=True)
    (outside / "kept").write_text("old")
    (outside / "ssh_host_key").write_text("old")
    (overlay / "var/run/kept").write_text("new")
    for name in ("var/run", "var/tmp", "root", "run"):
        (root / name).symlink_to(outside)
    (root / "etc/ssh").rmdir()
    (root / "etc/ssh").symlink_to(outside)
    monkeypatch.setattr(tidy_module, "run_in", lambda *_args, **_more: None)
    lay(overlay, root)
    in_root = root / outside.relative_to("/")
    assert (in_root / "kept").read_text() == "new"
    assert (in_root / "x").is_dir()
    tidy(root, 10)
    assert sorted(path.name for path in outside.iterdir()) == ["kept", "ssh_host_key"]
    assert (outside / "kept").read_text() == "old"


@pytest.mark.parametrize(
    ("links", "name", "expected"),
    [
        ({}, "a/b", "a/b"),
        ({"a": "/"}, "a/b", "b"),
        ({"a": "c/d"}, "a/b", "c/d/b"),
        ({"a": "../../x"}, "a/b", "x/b"),
        ({"a": "/e", "e": "f"}, "a/b", "f/b"),
        ({"a": "."}, "/a/../b", "b"),
    ],
)
def test_where_a_path_leads_in_a_root(
    links: dict[str, str], name: str, expected: str, tmp_path: Path
) -> None:
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    assert resolve(tmp_path, PurePosixPath(name)) == tmp_path / expected


def test_links_in_a_circle_end_the_build(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("/a")
    with pytest.raises(BuildError, match="circle at /a/c"):
        resolve(tmp_path, PurePosixPath("a/c"))


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("etc/dracut.conf.d/60-node.conf", True),
        ("etc/elemental/config.yaml", True),
        ("etc/hosts", True),
        ("usr/lib/udev/rules.d/62-x.rules", True),
        ("usr/lib/systemd/system/nomad.service", False),
        ("etc/hosts.d/x", False),
        ("system/oem/00_rootfs.yaml", False),
    ],
)
def test_which_files_make_a_new_initrd(path: str, *, answer: bool) -> None:
    assert goes_into_initrd(PurePosixPath(path)) is answer


def test_our_dracut_configuration_is_among_them() -> None:
    assert FILES / "etc/dracut.conf.d/60-node.conf" in initrd_files(FILES)


def test_no_time_is_later_than_the_commit(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (5, 5))
    (tmp_path / "link").symlink_to("nowhere")
    clamp_times(tmp_path, 10)
    times = {path.name: path.lstat().st_mtime for path in tmp_path.iterdir()}
    assert times == {"new": 10, "old": 5, "link": 10}
    assert tmp_path.stat().st_mtime == 10


def test_a_hard_link_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert size_of(tmp_path) == 100
