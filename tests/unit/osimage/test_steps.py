from pathlib import Path

import pytest

from osimage.build.stages import Stages
from osimage.build.tree import debian
from osimage.build.tree.steps import TreeRequest, make_tree


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
