"""Every error of `qemu-node os` says what to type next."""

from pathlib import Path

import pytest

from qemu_node.cli.main import main


@pytest.mark.parametrize(
    "words",
    [
        ["rollback"],
        ["rollback", "7"],
        ["upgrade", "--check"],
        ["refused", "--clear", "v1"],
        ["clean"],
        ["drain"],
        ["rollout"],
        ["install", "/dev/sda"],
        ["restore", "--yes", __file__],
        ["reset", "--yes"],
        ["set", "--hostname", "node1"],
    ],
    ids=" ".join,
)
def test_on_a_machine_that_is_no_node(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("os.geteuid", lambda: 0)
    config = tmp_path / "node.toml"
    config.touch()
    assert main(["--config", str(config), "os", "--root", str(tmp_path), *words]) == 1
    error, hint = capsys.readouterr().err.splitlines()[:2]
    assert error.startswith("error: ")
    assert hint.startswith(" hint: ")
