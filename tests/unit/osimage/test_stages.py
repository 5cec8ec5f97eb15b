import os
import shutil
import threading
from pathlib import Path

import pytest

from osimage.build import stages as module
from osimage.build.errors import BuildError
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


@pytest.mark.parametrize("name", ["tree", "iso"])
def test_what_a_killed_build_left_of_any_step_is_removed(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.abc" / "made").mkdir(parents=True)
    with Stages(tmp_path) as stages:
        stages.get("tree", "1", lambda target, _: target.touch(), about="")
    assert not (tmp_path / f"{name}.abc").exists()


def test_what_is_half_removed_when_the_build_is_killed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(target: Path, _: Path) -> None:
        target.mkdir()
        (target / "a").touch()
        (target / "b").touch()

    for number in range(4):
        with Stages(tmp_path) as stages:
            stages.get("tree", str(number), make, about="")
        os.utime(tmp_path / f"tree-{number}.used", (number, number))

    def die(path: Path, **_: object) -> None:
        for half in path.rglob("a"):
            half.unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, Stages(tmp_path) as stages:
        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            stages.get("tree", "9", lambda target, _: target.touch(), about="")
    with Stages(tmp_path) as stages:
        again = stages.get("tree", "0", make, about="")
        assert sorted(path.name for path in again.iterdir()) == ["a", "b"]


def test_steps_that_failed_do_not_drive_out_what_is_kept(tmp_path: Path) -> None:
    def fail(_target: Path, _scratch: Path) -> None:
        raise ValueError

    def make(target: Path, _scratch: Path) -> None:
        target.touch()

    with Stages(tmp_path) as stages:
        good = stages.get("tree", "good", make, about="")
    os.utime(tmp_path / "tree-good.used", (0, 0))
    for number in range(8):
        with Stages(tmp_path) as stages, pytest.raises(ValueError):  # noqa: PT011
            stages.get("tree", str(number), fail, about="")
    with Stages(tmp_path) as stages:
        stages.get("tree", "next", make, about="")
    assert good.exists()


def test_two_builds_share_a_step_while_both_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the step, and not for all that the first makes of it."""
    waits = threading.Event()
    made: list[str] = []

    def say(text: str) -> None:
        if "waits" in text:
            waits.set()

    monkeypatch.setattr(module, "say", say)

    def second() -> None:
        with Stages(tmp_path) as stages:
            stages.get("tree", "1", lambda _target, _scratch: made.append("second"), about="")

    thread = threading.Thread(target=second)

    def first(target: Path, _: Path) -> None:
        thread.start()
        assert waits.wait(60)
        target.touch()
        made.append("first")

    with Stages(tmp_path) as stages:
        stages.get("tree", "1", first, about="")
        thread.join(60)
        is_done = not thread.is_alive()
    thread.join()
    assert is_done
    assert made == ["first"]


def test_a_step_whose_files_change_meanwhile_is_not_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("old")

    def digest() -> str:
        return digest_of(files=[source])

    def make(target: Path, _: Path) -> None:
        source.write_text("new")
        shutil.copyfile(source, target)

    with Stages(tmp_path / "cache") as stages:
        before = digest()
        with pytest.raises(BuildError, match="changed while tree was made"):
            stages.get("tree", before, make, about="", look_again=digest)
        assert not (tmp_path / "cache" / f"tree-{before}").exists()
        kept = stages.get("tree", digest(), make, about="", look_again=digest)
    assert kept.read_text() == "new"


def test_a_kept_step_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    def make(target: Path, _: Path) -> None:
        target.write_text("whole")

    def is_sound(entry: Path) -> bool:
        return entry.read_text() == "whole"

    with Stages(tmp_path) as stages:
        kept = stages.get("tool", "1", make, about="", is_sound=is_sound)
    kept.write_text("damaged")
    with Stages(tmp_path) as stages:
        assert stages.get("tool", "1", make, about="", is_sound=is_sound).read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tool-1", "tool-1.used"]


def test_a_damaged_step_that_another_build_uses_stops_the_build(tmp_path: Path) -> None:
    def make(target: Path, _: Path) -> None:
        target.write_text("whole")

    with Stages(tmp_path) as other:
        kept = other.get("tool", "1", make, about="")
        kept.write_text("damaged")
        with Stages(tmp_path) as stages, pytest.raises(BuildError, match="is damaged, and another"):
            stages.get("tool", "1", make, about="", is_sound=lambda _: False)
        assert kept.read_text() == "damaged"


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
    (top / "empty").mkdir()
    seen.add(digest_of(files=[top]))
    (top / os.fsdecode(b"no-utf8-\xff")).touch()
    seen.add(digest_of(files=[top]))
    assert len(seen) == 8


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
