from pathlib import Path

import pytest

from qemu_node.run.runner import driver_argv


def test_the_driver_is_told_which_settings_were_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, _, _, *arguments = driver_argv(Path("new.toml"))
    assert arguments == ["--config", str(tmp_path / "new.toml"), "driver", "--stop-with-parent"]
    _, _, _, _, *arguments = driver_argv(None)
    assert arguments == ["driver", "--stop-with-parent"]


def test_driver_imports_nothing_from_the_working_directory() -> None:
    assert driver_argv(None)[1] in ("-I", "-P")
