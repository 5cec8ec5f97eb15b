import os
from pathlib import Path

import pytest

from osimage.build.stages import Stages, digest_of


def test_a_step_is_made_once(tmp_path: Path) -> None:
    made: list[str] = []

    def make(target: Path, scratch: Path) -> None:
        (scratch / "rest").touch()
        made.append("x")
        target.mkdir()
        (target / "file").touch()

    with Stages(tmp_path / "cache") as stages:
        first = stages.get("tree", "1", make, about="")
        assert stages.get("tree", "1", make, about="") == first
    assert made == ["x"]
    assert (first / "file").exists()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["tree-1", "tree-1.used"]


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(target: Path, scratch: Path) -> None:
        (scratch / "half").mkdir()
        target.touch()
        raise ValueError

    with Stages(tmp_path) as stages, pytest.raises(ValueError):  # noqa: PT011
        stages.get("tree", "1", fail, about="")
    assert [path.name for path in tmp_path.iterdir()] == ["tree-1.used"]


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "tree.abc" / "made").mkdir(parents=True)
    with Stages(tmp_path) as stages:
        stages.get("tree", "1", lambda target, _: target.touch(), about="")
    assert not (tmp_path / "tree.abc").exists()


def test_old_entries_go_but_for_those_in_use(tmp_path: Path) -> None:
    def make(target: Path, _: Path) -> None:
        target.touch()

    with Stages(tmp_path) as other:
        other.get("tree", "0", make, about="")
        os.utime(tmp_path / "tree-0.used", (0, 0))
        for number in range(1, 9):
            with Stages(tmp_path) as stages:
                stages.get("tree", str(number), make, about="")
            os.utime(tmp_path / f"tree-{number}.used", (number, number))
        kept = sorted(path.name for path in tmp_path.glob("tree-*") if path.suffix != ".used")
    assert kept == ["tree-0", "tree-5", "tree-6", "tree-7", "tree-8"]


def test_a_digest_tells_content_mode_name_and_link(tmp_path: Path) -> None:
    top = tmp_path / "files"
    top.mkdir()
    (top / "a").write_text("1")
    seen = {digest_of(files=[top])}
    (top / "a").write_text("2")
    seen.add(digest_of(files=[top]))
    (top / "a").chmod(0o755)
    seen.add(digest_of(files=[top]))
    (top / "a").rename(top / "b")
    seen.add(digest_of(files=[top]))
    (top / "c").symlink_to("b")
    seen.add(digest_of(files=[top]))
    (top / "c").unlink()
    (top / "c").symlink_to("d")
    seen.add(digest_of(files=[top]))
    assert len(seen) == 6


def test_a_digest_ignores_where_files_are_and_pythons_caches(tmp_path: Path) -> None:
    digests = set()
    for place in ("x", "y"):
        top = tmp_path / place / "files"
        top.mkdir(parents=True)
        (top / "a.py").write_text("1")
        (top / "__pycache__").mkdir()
        (top / "__pycache__" / f"{place}.pyc").touch()
        digests.add(digest_of(["word"], files=[top]))
    assert len(digests) == 1
