"""What a VM uses of its host, and whether it waits for disk space.

CPU time is one small read, done at every call. Pss walks page tables (11 ms per GiB): only
`measure` reads it, every 20 seconds, and what only root can read beside it.

A new key of usage.json has a default: readers of another version ignore or miss it.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from qemu_node.host.files import atomic, beneath
from qemu_node.host.process.identity import (
    ProcessId,
    cpu_times,
    merged_bytes,
    pss_bytes,
    storage_io,
)
from qemu_node.net.portspec import PortSpec
from qemu_node.text import DECODE_ERRORS


class DiskState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a VM waits for room on the node's disk."""

    is_full: bool = False
    """QEMU has paused the guest, whose last write found no room."""
    pauses: int = 0
    """How often that has happened in the VM's life."""
    paused_at: float | None = None
    """Unix time since when it waits."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """usage.json. Sizes in bytes, times in seconds."""

    measured_at: float
    """Unix time."""
    cpu_user_s: float
    cpu_system_s: float
    pss_bytes: int
    drops: dict[str, int] = {}
    """Frames of the guest that were not let through, by reason; those of its whole life."""
    disk: DiskState = DiskState()
    merged_bytes: int | None = None
    """Memory that KSM has merged; None: not known, as in files of drivers before 0.1.0."""
    overlay_bytes: int | None = None
    """Space that its disk takes on the node; None likewise."""
    read_bytes: int | None = None
    """What its QEMU has read from storage in its life; None likewise."""
    write_bytes: int | None = None


class CpuShare(msgspec.Struct, frozen=True, kw_only=True):
    """CPU use between two readings, in percent of one core."""

    user_pct: float
    system_pct: float

    @property
    def total_pct(self) -> float:
        """User and system together."""
        return self.user_pct + self.system_pct


class UsageMeter:
    """Reads one process's use. Safe to call after the process has gone: it then reports zeros."""

    def __init__(
        self,
        process: ProcessId,
        disk: DiskState = DiskState(),  # noqa: B008 - frozen
        *,
        overlay: Path | None = None,
    ) -> None:
        """Measure `process`, and with it the file of its disk if `overlay` names one."""
        self.disk = disk
        """What the VM waits for, as its manager last found."""
        self.drops: dict[str, int] = {}
        """What the ruleset dropped, as the VM's manager last read it."""
        self._process = process
        self._overlay = overlay
        self._pss_bytes = 0
        self._last: tuple[float, float, float] | None = None

    @property
    def pss_bytes(self) -> int:
        """The proportional set size at the last `measure`."""
        return self._pss_bytes

    def measure(self) -> Usage:
        """Read everything, also Pss, which is expensive. Blocks for some milliseconds."""
        self._pss_bytes = pss_bytes(self._process) or 0
        times = cpu_times(self._process)
        moved = storage_io(self._process)
        return Usage(
            measured_at=time.time(),
            cpu_user_s=0.0 if times is None else times.user_s,
            cpu_system_s=0.0 if times is None else times.system_s,
            pss_bytes=self._pss_bytes,
            drops=self.drops,
            disk=self.disk,
            merged_bytes=merged_bytes(self._process),
            overlay_bytes=_allocated_bytes(self._overlay),
            read_bytes=None if moved is None else moved.read_bytes,
            write_bytes=None if moved is None else moved.write_bytes,
        )

    def publish(self, path: Path) -> None:
        """Measure everything and write it to `path`. Blocks for some milliseconds.

        Raises:
            HostError: the file cannot be written.
        """
        atomic.write_atomic(path, msgspec.json.encode(self.measure()))

    def cpu_share(self) -> CpuShare:
        """Return the CPU use since the last call; zero at the first and after the end."""
        times = cpu_times(self._process)
        if times is None:
            return CpuShare(user_pct=0.0, system_pct=0.0)
        now = time.monotonic()
        last, self._last = self._last, (now, times.user_s, times.system_s)
        if last is None or now <= last[0]:
            return CpuShare(user_pct=0.0, system_pct=0.0)
        span_s = now - last[0]
        return CpuShare(
            user_pct=100 * (times.user_s - last[1]) / span_s,
            system_pct=100 * (times.system_s - last[2]) / span_s,
        )


def drops_of(ports: Iterable[PortSpec], drops: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return what was dropped on a VM's ports together, by reason.

    Args:
        ports: The VM's.
        drops: TAP → reason → frames, of all VMs.
    """
    total: Counter[str] = Counter()
    for port in ports:
        total.update(drops.get(port.ifname, {}))
    return {reason: count for reason, count in sorted(total.items()) if count}


def _allocated_bytes(path: Path | None) -> int | None:
    with contextlib.suppress(OSError):
        return None if path is None else path.lstat().st_blocks * 512
    return None


def read_usage(path: Path) -> Usage | None:
    """Return what was last written to `path`; None if nothing was, or it is damaged."""
    with contextlib.suppress(OSError, *DECODE_ERRORS):
        return msgspec.json.decode(beneath.read_published(path), type=Usage)
    return None
