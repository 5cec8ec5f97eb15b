import dataclasses
from pathlib import Path

import msgspec
import pytest

from osimage.build.binaries import lock
from osimage.build.commands import build_tree
from osimage.build.errors import BuildError
from osimage.build.request import BuildRequest, check_files
from osimage.build.stages import Stages

_REQUEST = BuildRequest(
    what="iso", tag="v1", out=Path("out"), source="", key=None, record=None, snapshot=None,
    overlays=(), iso_overlay=None, is_plain=False, nomad=None, elemental=None, epoch=0,
)  # fmt: skip


@pytest.mark.parametrize("missing", ["digest", "sha256"])
def test_a_build_says_that_elemental_is_not_pinned_before_it_gets_anything(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = lock.read()
    whole = msgspec.structs.replace(pinned.elemental, digest=f"sha256:{64 * '1'}", sha256=64 * "1")
    elemental = msgspec.structs.replace(whole, **{missing: ""})
    found = msgspec.structs.replace(pinned, elemental=elemental)
    monkeypatch.setattr(lock, "read", lambda: found)
    with Stages(tmp_path) as stages, pytest.raises(BuildError, match="no digest") as caught:
        build_tree(stages, _REQUEST)
    assert "osimage.build pin" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--key", {"key": Path("/nonexistent")}),
        ("--record", {"record": Path("/nonexistent")}),
        ("--overlay", {"overlays": (Path("/"), Path("/nonexistent"))}),
        ("--iso-overlay", {"iso_overlay": Path("/nonexistent")}),
    ],
)
def test_a_file_that_is_not_there_is_named_with_its_option(
    option: str, given: dict[str, object]
) -> None:
    request = dataclasses.replace(_REQUEST, **given)  # type: ignore[arg-type]
    with pytest.raises(BuildError, match=f"^{option}=/nonexistent") as caught:
        check_files(request)
    assert caught.value.hint


def test_files_that_are_there_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    check_files(
        dataclasses.replace(
            _REQUEST, key=file, record=file, overlays=(tmp_path,), iso_overlay=tmp_path
        )
    )
