"""Which units are enabled: the project's own preset file says so.

Owns that file's form and what follows from it. Does not own which units (`osimage/files`).

`/usr/lib/systemd/system-preset/10-nomad-qemu-node.preset` has lines `enable UNIT` and
`disable UNIT` (systemd.preset(5)); patterns are not supported, because each unit has its reason
there. A unit is masked by a link to /dev/null below `osimage/files/etc/systemd/system`.
"""

from collections.abc import Sequence
from pathlib import Path

from osimage.build.errors import BuildError

PRESET = "usr/lib/systemd/system-preset/10-nomad-qemu-node.preset"


def parse_presets(text: str) -> list[tuple[str, str]]:
    """Return verb and unit of each line.

    Raises:
        BuildError: a line is neither `enable UNIT` nor `disable UNIT`.
    """
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in ("enable", "disable") or "*" in words[1]:
            raise BuildError(f"{PRESET}: not `enable UNIT` or `disable UNIT`: {line!r}")
        found.append((words[0], words[1]))
    return found


def read_presets(root: Path) -> list[tuple[str, str]]:
    """Return what the root's preset file says; nothing if there is none."""
    path = root / PRESET
    return parse_presets(path.read_text()) if path.exists() else []


def missing(root: Path, presets: Sequence[tuple[str, str]]) -> list[str]:
    """Return the units that are to start and that the root does not have."""
    directories = (root / "usr/lib/systemd/system", root / "etc/systemd/system")
    return [
        unit
        for verb, unit in presets
        if verb == "enable" and not any((place / unit).exists() for place in directories)
    ]


def commands(presets: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the commands that follow from presets, to be run in the root."""
    return [
        ["systemctl", "--quiet", verb, *units]
        for verb in ("disable", "enable")
        if (units := [unit for said, unit in presets if said == verb])
    ]
