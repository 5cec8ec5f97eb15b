import os
import shutil
from pathlib import Path

import pytest

from osimage.build.stages import Stages
from osimage.build.tree import debian, steps
from osimage.build.tree.steps import TreeRequest, make_tree
from osimage.build.tree.tidy import clamp_times


def test_a_record_names_our_package_which_no_mirror_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "image.packages"
    record.write_text("libc6 2.41-12\nqemu-node 0.1.0~deb13\n")
    asked: list[object] = []

    class Enough(Exception):
        pass

    def make_base(*_args: object, record: object, **_more: object) -> Path:
        asked.append(record)
        raise Enough

    monkeypatch.setattr(debian, "make_base", make_base)
    request = TreeRequest(
        tag="x", version="1", source="", nomad=tmp_path, elemental=None, local_binaries=(),
        epoch=0, record=record,
    )  # fmt: skip
    with Stages(tmp_path / "cache") as stages, pytest.raises(Enough):
        make_tree(stages, request)
    assert asked == [{"libc6": "2.41-12"}]


_COMMIT = 1_800_000_000


@pytest.mark.parametrize("made_at", [_COMMIT - 1000, _COMMIT + 1000], ids=["before", "after"])
def test_packages_installed_before_the_commit_have_the_time_of_those_installed_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_at: int
) -> None:
    kept, package = tmp_path / "kept", tmp_path / "qemu-node.deb"
    kept.mkdir()
    package.touch()
    for name, time in (("of-a-package", 7), ("made", made_at)):
        (kept / name).touch()
        os.utime(kept / name, (time, time))
    monkeypatch.setattr(debian, "make_base", lambda *_args, **_more: kept)
    monkeypatch.setattr(steps, "make_with_initrd", lambda *_args, **_more: kept)
    monkeypatch.setattr(steps, "make_package", lambda: package)
    monkeypatch.setattr(steps, "copy_root", shutil.copytree)
    for name in ("install_package", "lay", "_finish"):
        monkeypatch.setattr(steps, name, lambda *_args: None)
    monkeypatch.setattr(steps, "tidy", clamp_times)
    nomad = tmp_path / "nomad"
    nomad.touch()
    (kept / "usr/bin").mkdir(parents=True)
    request = TreeRequest(
        tag="x", version="1", source="", nomad=nomad, elemental=None, local_binaries=(),
        epoch=_COMMIT,
    )  # fmt: skip
    with Stages(tmp_path / "cache") as stages:
        tree = make_tree(stages, request)
        times = {name: (tree / name).stat().st_mtime for name in ("of-a-package", "made")}
    assert times == {"of-a-package": 7, "made": 1767225600}
