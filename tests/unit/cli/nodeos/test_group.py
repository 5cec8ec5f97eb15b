"""`qemu-node os` shows itself only on a node's own system, and acts below a root of the test."""

import json
from pathlib import Path

import pytest

from qemu_node.cli.main import main
from qemu_node.nodeos import release


@pytest.mark.parametrize(("tag", "is_shown"), [("v1", True), ("", False)])
def test_the_group_is_listed_only_where_there_is_such_a_system(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tag: str,
    is_shown: bool,
) -> None:
    monkeypatch.setattr(release, "read_release", lambda _: release.Release(tag=tag))
    assert main(["--help"]) == 0
    assert ("Manage this node's operating system." in capsys.readouterr().out) is is_shown


def test_it_can_be_called_anywhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["os", "--root", str(tmp_path), "status"]) == 0
    assert "no image of the node's operating system" in capsys.readouterr().out


def test_status_tells_the_image_of_the_root(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("IMAGE_TAG=v7\n")
    assert main(["os", "--root", str(tmp_path), "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tag"] == "v7"
