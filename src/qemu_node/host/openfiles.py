"""How many files this process has open, and how many it may.

Owns the limit of open files (RLIMIT_NOFILE): reading it, and raising it for this process alone.
Does not own what is refused where there are too few.
"""

import contextlib
import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

_FDS = Path("/proc/self/fd")
_MAX_OPEN_FILES = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """Descriptors of a process."""

    used: int
    limit: int
    """The soft limit, at which open(2) fails with EMFILE."""

    @property
    def free(self) -> int:
        """How many more it may open."""
        return self.limit - self.used


_before_raise: int | None = None


def raise_limit() -> None:
    """Let this process have as many files open as it may at all.

    A service's soft limit is 1024 (man 5 systemd.exec, LimitNOFILE), because of programs that use
    select(2): processes that this one starts should get `limit_before_raise` back.
    """
    global _before_raise
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # It fails where fs.nr_open was lowered below the hard limit meanwhile.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            _before_raise = soft


def limit_before_raise() -> int | None:
    """Return the soft limit that this process was started with; None where it was not raised."""
    return _before_raise


def read_own() -> OpenFiles:
    """Return what this process has open; before Linux 6.2 0.3 ms for each 1000 files.

    Raises:
        OSError: not one file more can be opened.
    """
    # The directory's size is the number of descriptors since Linux 6.2 (fs/proc/fd.c), and was 0.
    used = _FDS.stat().st_size
    if used == 0:
        # The descriptor that lists them is among them.
        used = len(os.listdir(_FDS)) - 1  # noqa: PTH208 - names alone, no paths
    return OpenFiles(used=used, limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def read_limit(pid: int) -> int | None:
    """Return the soft limit of another process; None where it is gone."""
    try:
        text = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return None
    match = _MAX_OPEN_FILES.search(text)
    return None if match is None else int(match[1])
