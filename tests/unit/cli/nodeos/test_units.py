import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu_node.cli.main import main
from qemu_node.nodeos.rollout import automatic

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
