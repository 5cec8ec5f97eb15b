"""The cgroup v2 scope that Nomad makes for a task: its limits and what happened in it.

Owns the values written into a scope. Does not own the scope: Nomad makes it before StartTask, kills
what is left in it after the task's end and removes it (client/lib/cgroupslib). File names and their
meaning are those of the kernel's Documentation/admin-guide/cgroup-v2.rst.

The limits protect the node from a faulty QEMU; they do not ration a guest. Nothing that a guest
does within its size may get it killed. So memory.max stands above the task's memory
(`memory_backstop_bytes`), memory.high is off (throttling a vCPU thread stalls the guest), swap is
allowed (slow is better than dead), and CPU is shared by weight without a quota.
"""

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from qemu_node.units import MIB

log = logging.getLogger(__name__)

_MIN_BACKSTOP_BYTES = 256 * MIB
_BACKSTOP_FRACTION = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeLimits:
    """What the processes of one VM may use together."""

    memory_max_bytes: int | None
    """Above this the kernel reclaims, then kills; None: no limit. See `memory_backstop_bytes`."""
    cpu_shares: int
    """Nomad's `linux_resources.cpu_shares`: the task's MHz."""
    cpuset_cpus: str
    """CPUs reserved for the task, such as "0-1,4"; "" for the CPUs that all tasks without reserved
    ones share."""
    pids_max: int
    """Threads and processes; QEMU's I/O worker threads alone can be 64."""

    def values(self) -> dict[str, str]:
        """Return the value of every file that a start writes.

        A start writes all of them: a task that is restarted on the same node gets the scope of its
        last run, with the values of that run. cpuset.cpus stays empty for shared CPUs, because
        Nomad takes reserved CPUs out of the parent slice, and a scope that names one of those keeps
        only the others.
        """
        memory_max = "max" if self.memory_max_bytes is None else str(self.memory_max_bytes)
        return {
            "memory.max": memory_max,
            "memory.high": "max",
            "memory.swap.max": "max",
            # QEMU and its swtpm are one VM: kill both or none.
            "memory.oom.group": "1",
            "cpu.weight": str(cpu_weight(self.cpu_shares)),
            "cpu.max": "max",
            "cpuset.cpus": self.cpuset_cpus,
            # Present only if an I/O controller that knows weights is in use (BFQ, iocost).
            "io.weight": "default 100",
            "pids.max": str(self.pids_max),
        }


def memory_backstop_bytes(memory_bytes: int) -> int:
    """Return the memory.max for a task of `memory_bytes`: more than a well-behaved VM can need.

    Guest RAM and QEMU's measured overhead fit `memory_bytes` together. On top come kernel memory
    charged to the scope (page tables of host and guest, sockets, vhost) and the page cache of an
    overlay that is written faster than the disk takes it: an eighth, at least 256 MiB.
    """
    return memory_bytes + max(_MIN_BACKSTOP_BYTES, memory_bytes // _BACKSTOP_FRACTION)


def cpu_weight(cpu_shares: int) -> int:
    """Return the cpu.weight, 1 to 10000, for v1 `cpu_shares`, 2 to 262144.

    The same function as Nomad's exec driver and runc use, so that a VM and a container of equal
    `cpu` get equal time: ConvertCPUSharesToCgroupV2Value in github.com/opencontainers/cgroups
    v0.0.7, utils.go, a curve through (2, 1), (1024, 100) and (262144, 10000).
    """
    if cpu_shares <= 2:
        return 1
    if cpu_shares >= 262_144:
        return 10_000
    log2 = math.log2(cpu_shares)
    exponent = (log2 * log2 + 125 * log2) / 612.0 - 7.0 / 34.0
    return math.ceil(math.pow(10, exponent))


class Scope:
    """One task's scope, which exists and may be written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def find(cls, cpuset_cgroup: str) -> Self | None:
        """Return the scope that Nomad names; None if it cannot be used, with the reason logged.

        Args:
            cpuset_cgroup: `linux_resources.cpuset_cgroup_path` of the task, "" if Nomad made no
                cgroup.
        """
        reason = _why_unusable(cpuset_cgroup)
        if reason is None:
            return cls(Path(cpuset_cgroup))
        log.info("VM runs without cgroup limits", extra={"cgroup": cpuset_cgroup, "reason": reason})
        return None

    @property
    def procs_path(self) -> Path:
        """The file through which a process joins the scope."""
        return self.path / "cgroup.procs"

    def apply(self, limits: ScopeLimits) -> tuple[str, ...]:
        """Write every value of `limits`; return what failed, as "io.weight: permission denied".

        A missing controller takes nothing from a guest, so the VM starts without it.
        """
        failures = []
        for name, value in limits.values().items():
            try:
                self._write(name, value)
            except OSError as exc:
                failures.append(f"{name}: {(exc.strerror or str(exc)).lower()}")
        if failures:
            log.info(
                "some cgroup limits were not set",
                extra={"cgroup": str(self.path), "failures": failures},
            )
        return tuple(failures)

    def _write(self, name: str, value: str) -> None:
        # No O_CREAT: in a real cgroup nothing can be made. The newline makes an empty value a
        # write.
        fd = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"{value}\n".encode())
        finally:
            os.close(fd)

    def oom_kills(self) -> int:
        """Return how often the kernel has killed in this scope because memory ran out.

        Restarts of the task do not reset the count: compare it with the count at the start. A
        process killed with its group counts twice (seen on Linux 6.12). 0 if the scope is gone, or
        without the memory controller.
        """
        try:
            text = (self.path / "memory.events").read_text()
        except OSError:
            return 0
        for line in text.splitlines():
            key, _, count = line.partition(" ")
            if key == "oom_kill":
                return int(count)
        return 0


def _why_unusable(cpuset_cgroup: str) -> str | None:
    """Return why this cannot be a task's own cgroup v2 scope; None if it can."""
    path = Path(cpuset_cgroup)
    if not cpuset_cgroup:
        return "Nomad made no cgroup for the task"
    if not path.is_dir():
        return "the cgroup does not exist"
    if not (path / "cgroup.controllers").exists():
        return "it is a cgroup v1, which has no scope per task"
    # Limits written into a slice would be those of all its tasks together.
    if path.suffix != ".scope":
        return "it is not the scope of one task"
    if not os.access(path / "cgroup.procs", os.W_OK):
        return "it may not be written"
    return None
