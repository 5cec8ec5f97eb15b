"""Which process is meant although pids are reused, and what /proc says about it.

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
"""Longest time that a process may be in the middle of an exec."""

_EXEC_POLL_S = 0.001

_SETTLED_LOOKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process. The start time tells it from a later one with the same pid.

    `start_time` is in clock ticks since boot: field 22 of /proc/PID/stat (man 5 proc).
    """

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """CPU time a process has used, in seconds since its start."""

    user_s: float
    system_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageIO:
    """Bytes that a process has moved from and to storage since its start.

    What the page cache has answered is not in it.
    """

    read_bytes: int
    write_bytes: int


_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def read_proc(path: str) -> str:
    """Return a short file of /proc; read often and of many, so without a file object.

    Raises:
        OSError: the process is gone, or we may not look into it.
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
    """Tell whether all threads of a process have ended.

    The state is that of the first thread, which may have ended before the others: field 20 counts
    all threads.
    """
    return fields[0] in ("Z", "X") and int(fields[17]) <= 1


@functools.cache
def boot_id() -> str:
    """Return the kernel's id of this boot (man 4 random); start times count from the boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessId | None:
    """Return the identity of the live process `pid`; None if there is none, or a zombie."""
    fields = read_stat(pid)
    if fields is None or is_over(fields):
        return None
    return ProcessId(pid=pid, start_time=int(fields[19]))


def is_alive(process: ProcessId) -> bool:
    """Tell whether exactly this process runs. A zombie does not run."""
    return identify(process.pid) == process


def age_s(process: ProcessId) -> float:
    """Return how long ago `process` was started, also if it has ended; nothing of /proc is read."""
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(since_boot_s - process.start_time / _TICKS_PER_S, 0.0)


def cpu_times(process: ProcessId) -> ProcessTimes | None:
    """Return the CPU time used by all threads of `process`; None if it is gone."""
    fields = read_stat(process.pid)
    if fields is None or int(fields[19]) != process.start_time:
        return None
    return ProcessTimes(
        user_s=int(fields[11]) / _TICKS_PER_S, system_s=int(fields[12]) / _TICKS_PER_S
    )


def pss_bytes(process: ProcessId) -> int | None:
    """Return the proportional set size of `process`; None if it is gone or we may not read it.

    The kernel walks the page tables: about 11 ms for 1 GiB of 4 KiB pages. Do not call it often.
    """
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:") and is_alive(process):
            return int(line.split()[1]) * 1024
    return None


def merged_bytes(process: ProcessId) -> int | None:
    """Return how much memory of `process` KSM has merged with other memory.

    That is more than what is saved: one of the equal pages stays. None if the process is gone, we
    may not look, or the kernel does not say (Linux 5.19, admin-guide/mm/ksm.rst).
    """
    try:
        pages = int(read_proc(f"/proc/{process.pid}/ksm_merging_pages"))
    except (OSError, ValueError):
        return None
    return pages * _PAGE_BYTES if is_alive(process) else None


def storage_io(process: ProcessId) -> StorageIO | None:
    """Return what `process` has read from and written to storage (man 5 proc, /proc/PID/io).

    None if it is gone, we may not look, or the kernel does not count.
    """
    counts: dict[str, int] = {}
    try:
        for line in read_proc(f"/proc/{process.pid}/io").splitlines():
            name, _, number = line.partition(":")
            counts[name] = int(number)
        found = StorageIO(read_bytes=counts["read_bytes"], write_bytes=counts["write_bytes"])
    except (OSError, ValueError, KeyError):
        return None
    return found if is_alive(process) else None


def command_line(pid: int, wait_s: float = EXEC_MAX_S) -> list[str]:
    """Return the argv of `pid`; empty for kernel threads, zombies and processes that are gone.

    In the middle of an exec a process has no argv, for about a millisecond with QEMU. This waits
    until it has one, for `wait_s` at most, so that the process does not seem to be gone. Blocks. A
    process can hide its argv; then the list is empty.
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
            # The exec may have begun or ended between the two reads.
            looks += 1


def _is_in_exec(pid: int) -> bool:
    """Tell whether a process without an argv will get one: no kernel thread, and not exiting."""
    fields = read_stat(pid)
    if fields is None or is_over(fields):
        return False
    # Field 49, the end of its arguments, is set last in an exec; PR_SET_MM_MAP (man 2 prctl) does
    # not take 0 for it. For a process that we may not trace it is always 0.
    return not int(fields[6]) & (_PF_EXITING | _PF_KTHREAD) and int(fields[46]) == 0
