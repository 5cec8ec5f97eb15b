from pathlib import Path

import pytest

from osimage.build.errors import BuildError
from osimage.build.tree.units import commands, missing, parse_presets


def test_presets_become_commands_disabled_units_first() -> None:
    presets = parse_presets("# why\nenable a.service\n\ndisable b.timer\nenable c.mount # why\n")
    assert commands(presets) == [
        ["systemctl", "--quiet", "disable", "b.timer"],
        ["systemctl", "--quiet", "enable", "a.service", "c.mount"],
    ]


def test_nothing_to_do_is_no_command() -> None:
    assert commands([]) == []


@pytest.mark.parametrize("line", ["enable *", "enable", "mask a.service", "enable a b"])
def test_a_wrong_line_is_refused(line: str) -> None:
    with pytest.raises(BuildError, match="enable UNIT"):
        parse_presets(line)


def test_a_unit_that_is_missing_is_named(tmp_path: Path) -> None:
    system = tmp_path / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    (system / "a.service").touch()
    presets = [("enable", "a.service"), ("enable", "b.service"), ("disable", "c.service")]
    assert missing(tmp_path, presets) == ["b.service"]
