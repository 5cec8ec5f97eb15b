"""What a run of the benches was told: where Nomad is, and what it is compared with."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.rig.node import CannotRunError


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalFigures:
    """What the project this one replaces costs: a wrapper script under Nomad's `qemu` driver."""

    helpers_private_bytes: float
    """Private memory of its helper processes, a VM: logmon, executor, shell."""
    qemu_private_bytes: float
    """Private memory of its QEMU beside guest RAM, guest paused."""
    origin: str
    """Where the figures are from."""


@dataclass(slots=True, kw_only=True)
class Setting:
    """The run; a bench may leave figures for those after it."""

    nomad: Path | None
    original_dir: Path | None
    original: OriginalFigures | None = None
    """Measured in this run."""

    def require_nomad(self) -> Path:
        """Return the Nomad binary.

        Raises:
            CannotRunError: there is none, or we are not root, as its client must be.
        """
        if self.nomad is None:
            raise CannotRunError("no Nomad binary; name one: NOMAD=/path/to/nomad")
        if os.geteuid() != 0:
            raise CannotRunError("a Nomad client needs root")
        return self.nomad


def find_nomad() -> Path | None:
    """Return the binary that `$NOMAD` names, else the one in PATH."""
    found = shutil.which(os.environ.get("NOMAD") or "nomad")
    return None if found is None else Path(found)
