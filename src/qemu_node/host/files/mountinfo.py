"""The mounts of a process, by the text of /proc/self/mountinfo (proc(5)): pure."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mount. Of several on one point the last one in the list lies above the others."""

    device: str
    """`major:minor`."""
    point: Path
    kind: str
    """The file system's type."""


def parse_mounts(mountinfo: str) -> list[Mount]:
    """Return the mounts, the earliest first. Takes any text."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) > 4:
            kind = after.partition(" ")[0]
            found.append(Mount(device=fields[2], point=Path(fields[4]), kind=kind))
    return found
