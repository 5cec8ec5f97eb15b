import os
from pathlib import Path

import pytest

from qemu_node.cli.main import main
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.settings.archive import Saved, pack, unpack


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodePaths:
    """Return the paths of an installed node without /data."""
    paths = NodePaths(tmp_path / "node")
    paths.mode("active").parent.mkdir(parents=True)
    paths.mode("active").touch()
    (paths.own / "host").mkdir(parents=True)
    (paths.own / "host/hostname").write_text("node1\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return paths


def _run(paths: NodePaths, *words: str) -> int:
    return main(["os", "--root", str(paths.root), *words])


def test_a_saved_configuration_is_for_its_owner_only_and_that_is_said(
    node: NodePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node1.tar.gz"
    assert _run(node, "save", str(file)) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert "it holds secrets" in capsys.readouterr().err
    assert unpack(file.read_bytes(), "x").oem == {"qemu-node/host/hostname": b"node1\n"}


def test_a_restoration_says_what_changes_and_asks(
    node: NodePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.tar.gz"
    file.write_bytes(
        pack(Saved(oem={"qemu-node/host/hostname": b"node2\n"}, config={"a.hcl": b""}))
    )
    assert _run(node, "restore", str(file)) == 2
    assert (node.own / "host/hostname").read_text() == "node1\n"
    assert capsys.readouterr().out.splitlines() == [
        "create /data/config/a.hcl",
        "change /oem/qemu-node/host/hostname",
    ]
    assert _run(node, "restore", "--yes", str(file)) == 0
    assert (node.own / "host/hostname").read_text() == "node2\n"
    assert (node.staged_config / "a.hcl").exists()
    [kept] = node.own.glob("config-before-*.tar.gz")
    assert unpack(kept.read_bytes(), "x").oem == {"qemu-node/host/hostname": b"node1\n"}


def test_as_a_new_node_the_name_stays(node: NodePaths, tmp_path: Path) -> None:
    file = tmp_path / "other.tar.gz"
    file.write_bytes(pack(Saved(oem={"qemu-node/host/hostname": b"node2\n"})))
    assert _run(node, "restore", "--as-new-node", "--yes", str(file)) == 0
    assert (node.own / "host/hostname").read_text() == "node1\n"


def test_another_file_is_refused(
    node: NodePaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_text("hello")
    assert _run(node, "restore", "--yes", str(tmp_path / "x")) == 1
    assert "no archive of `qemu-node os save`" in capsys.readouterr().err


def test_a_reset_is_not_ordered_unasked(node: NodePaths) -> None:
    assert _run(node, "reset") == 2
    assert not node.reset.exists()


def test_the_recovery_system_resets_nothing_that_was_not_ordered(
    node: NodePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    node.mode("active").rename(node.mode("recovery"))
    assert _run(node, "reset", "--continue") == 0
    assert "no factory reset was ordered" in capsys.readouterr().out


def test_nothing_is_applied_while_nothing_is_mounted(
    node: NodePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(node, "data-mounted") == 1
    assert "mount LABEL=DATA /data" in capsys.readouterr().err
