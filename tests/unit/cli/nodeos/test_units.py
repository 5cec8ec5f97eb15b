import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu_node.cli.main import main
from qemu_node.nodeos import health
from qemu_node.nodeos.rollout import automatic
from qemu_node.nodeos.snapshots import facts, verdict

_TITLE = "\x1b]0;own\x07"


def test_what_another_node_wrote_cannot_steer_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever may write the variable of the roll-out chooses these words."""

    async def tick(
        _paths: object, _config: object, tell: Callable[[str], None], *, now: datetime.datetime
    ) -> None:
        tell(f"{_TITLE} upgrades since {now}: this node waits")

    monkeypatch.setattr(automatic, "tick", tick)
    config = tmp_path / "node.toml"
    config.write_text("[os]\nautomatic = true\n")
    argv = ["--config", str(config), "os", "--root", str(tmp_path), "automatic"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "upgrades since" in said
    assert _TITLE not in said


@pytest.mark.parametrize(("words", "status"), [([], 1), (["--once"], 0)])
def test_a_person_is_told_the_health_of_a_confirmed_system_and_the_boot_assessment_is_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
) -> None:
    async def look(_paths: object, **_options: object) -> list[str]:
        return ["no network"]

    monkeypatch.setattr(health, "wait_until_well", look)
    monkeypatch.setattr(facts, "read_facts", lambda _paths: None)
    monkeypatch.setattr(verdict, "needs_no_check", lambda _facts: True)
    assert main(["os", "--root", str(tmp_path), "health", *words]) == status
    assert ("no network" in capsys.readouterr().err) is (status == 1)
