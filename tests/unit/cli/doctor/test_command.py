import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qemu_node.cli.doctor import nodefacts
from qemu_node.cli.doctor.checks import Check, fail, ok, warn
from qemu_node.cli.doctor.command import plain_line, summary
from qemu_node.cli.main import main

Output = pytest.CaptureFixture[str]

FINE = ok("Python", "3.13.1")
WARNED = warn("KSM", "off", "switch it on")
FAILED = fail("QEMU", "qemu-system-x86_64 is not installed", "apt install qemu-system-x86")


def let_find(monkeypatch: pytest.MonkeyPatch, *found: Check) -> list[Path | None]:
    """Let the examination find exactly this; return the settings that it was given."""
    asked: list[Path | None] = []

    async def examine(config_path: Path | None) -> AsyncIterator[Check]:
        asked.append(config_path)
        for check in found:
            yield check

    monkeypatch.setattr(nodefacts, "examine", examine)
    return asked


def test_a_line_each_and_what_to_do_about_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    let_find(monkeypatch, FINE, WARNED)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok    Python       3.13.1",
        "warn  KSM          off -> switch it on",
        "VMs can run here; 1 warning",
    ]


def test_a_failure_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    let_find(monkeypatch, FINE, FAILED, WARNED, WARNED)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "1 failure, 2 warnings: VMs cannot run here"
    )


def test_json_has_every_check_whole(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    long = warn("accelerator", "x" * 1000, "advice")
    let_find(monkeypatch, FINE, FAILED, long)
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["checks"][0] == {
        "name": "Python", "level": "ok", "detail": "3.13.1", "advice": None,
    }  # fmt: skip
    assert report["checks"][2]["detail"] == "x" * 1000


def test_the_settings_named_on_the_command_line_are_those_examined(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = let_find(monkeypatch, FINE)
    main(["--config", str(tmp_path / "node.toml"), "doctor"])
    assert asked == [tmp_path / "node.toml"]


def test_qemus_words_are_one_line_of_bounded_length_that_steers_no_terminal() -> None:
    line = plain_line(warn("accelerator", "no\nKVM\x1b[2J " + "x" * 1000, None))
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 350


def test_the_summary_says_whether_vms_can_run() -> None:
    assert summary([FINE]) == "VMs can run here; no warnings"
    assert summary([FAILED]) == "1 failure, no warnings: VMs cannot run here"
