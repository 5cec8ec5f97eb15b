import os
from pathlib import Path, PurePosixPath

import pytest

from osimage.build.tree.initrd import goes_into_initrd, initrd_files
from osimage.build.tree.lay import lay
from osimage.build.tree.steps import FILES
from osimage.build.tree.tidy import clamp_times, size_of


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
