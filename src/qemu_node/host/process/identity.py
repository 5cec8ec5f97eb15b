"""Naming a process over pid reuse, and what /proc says about it.

Owns `ProcessId` and every read of /proc/PID. Does not own signals (`pidfd`) or starts (`command`).
"""

import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path

# include/linux/sched.h; field 9 of /proc/PID/stat.
_PF_EXITING = 0x00000004

_PF_KTHREAD = 0x00200000

EXEC_MAX_S = 0.5
"""How long a process may be in the middle of an exec."""

_EXEC_POLL_S = 0.001

_SETTLED_LOOKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process, told apart from a later one with the same pid by its start time.

    `start_time` is in clock ticks since boot: field 22 of /proc/PID/stat (man 5 proc).
    """

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """CPU time a process has used, in seconds since its start."""

    user_s: float
    system_s: float


_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def read_proc(path: str) -> str:
    """Return a short file of /proc; read often and of many, so without a file object.

    Raises:
        OSError: the process is gone, or not ours to look at.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode(errors="replace")
    finally:
        os.close(fd)


def read_stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat that follow the command name; index 0 is field 3."""
    try:
        text = read_proc(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold spaces and parentheses: the last ")" ends it.
    return text[text.rindex(")") + 2 :].split()


def is_over(fields: list[str]) -> bool:
    """Tell whether no thread of a process runs any more.

    Its state is that of its first thread, and that one may have ended alone: field 20 counts it
    and the others.
    """
    return fields[0] in ("Z", "X") and int(fields[17]) <= 1


@functools.cache
def boot_id() -> str:
    """Return the kernel's name for this boot (man 4 random), from which start times count."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessId | None:
    """Return the identity of the live process `pid`, or None where there is none (or a zombie)."""
    fields = read_stat(pid)
    if fields is None or is_over(fields):
        return None
    return ProcessId(pid=pid, start_time=int(fields[19]))


def is_alive(process: ProcessId) -> bool:
    """Tell whether exactly this process still runs; a zombie does not."""
    return identify(process.pid) == process


def cpu_times(process: ProcessId) -> ProcessTimes | None:
    """Return the CPU time used by all threads of `process`, or None once it is gone."""
    fields = read_stat(process.pid)
    if fields is None or int(fields[19]) != process.start_time:
        return None
    return ProcessTimes(
        user_s=int(fields[11]) / _TICKS_PER_S, system_s=int(fields[12]) / _TICKS_PER_S
    )


def pss_bytes(process: ProcessId) -> int | None:
    """Return the proportional set size of `process`; None once it is gone or may not be read.

    Walks the page tables: about 11 ms for 1 GiB of 4 KiB pages. Not for every tick.
    """
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:") and is_alive(process):
            return int(line.split()[1]) * 1024
    return None


def command_line(pid: int, wait_s: float = EXEC_MAX_S) -> list[str]:
    """Return the argv of `pid`; empty for kernel threads, zombies and processes that are gone.

    In the middle of an exec a process has no argv for a moment, about a millisecond of it for
    QEMU: the question is asked again then, for `wait_s` at most, so that a process never looks as
    if it were not there. Blocks; a process can hide its argv, and then it is empty.
    """
    deadline = time.monotonic() + wait_s
    looks = 0
    while True:
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return []
        if raw or looks == _SETTLED_LOOKS or time.monotonic() > deadline:
            return [part.decode(errors="surrogateescape") for part in raw.split(b"\0")[:-1]]
        if _is_in_exec(pid):
            looks = 0
            time.sleep(_EXEC_POLL_S)
        else:
            # The exec may have come to its end, or begun, between the two readings.
            looks += 1


def _is_in_exec(pid: int) -> bool:
    """Tell whether a process without an argv will have one: neither a kernel's nor dying."""
    fields = read_stat(pid)
    if fields is None or is_over(fields):
        return False
    # Where its arguments end, field 49, is set last in an exec; PR_SET_MM_MAP (man 2 prctl) takes
    # no address as low as 0 for it. Of a process that we may not trace we see 0 always.
    return not int(fields[6]) & (_PF_EXITING | _PF_KTHREAD) and int(fields[46]) == 0
