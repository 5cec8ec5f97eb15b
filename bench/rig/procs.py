"""What processes cost: CPU time, their memory by mapping, and who started whom.

Owns reading /proc for the benches. Sizes in bytes, times in seconds.
"""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from qemu_node.host.process.identity import cpu_times, identify
from qemu_node.units import KIB

_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)\s*(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """One mapping of a process: a stanza of /proc/PID/smaps (man 5 proc_pid_smaps)."""

    size_bytes: int
    file: str
    """The mapped file; empty for anonymous memory, heap and stack among it."""
    rss_bytes: int
    pss_bytes: int
    private_bytes: int
    """Written by this process, in no file and in no other process: what it alone costs."""


def mappings(pid: int) -> list[Mapping]:
    """Return the mappings of a live process.

    Raises:
        OSError: it is gone, or not ours to look at.
    """
    found: list[Mapping] = []
    header: re.Match[str] | None = None
    values: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text(errors="replace").splitlines():
        match = _HEADER.fullmatch(line)
        if match is None:
            key, _, value = line.partition(":")
            if value.endswith(" kB"):
                values[key] = int(value.split()[0]) * KIB
            continue
        if header is not None:
            found.append(_mapping(header, values))
        header, values = match, {}
    if header is not None:
        found.append(_mapping(header, values))
    return found


def _mapping(header: re.Match[str], values: dict[str, int]) -> Mapping:
    return Mapping(
        size_bytes=int(header[2], 16) - int(header[1], 16),
        file=header[4] if header[3] != "0" else "",
        rss_bytes=values["Rss"],
        pss_bytes=values["Pss"],
        private_bytes=values["Private_Dirty"],
    )


def private_bytes(pid: int, *, guest_ram_bytes: int = 0) -> int:
    """Return the private dirty memory of a process, without the mapping that is a guest's RAM."""
    return sum(
        mapping.private_bytes
        for mapping in mappings(pid)
        if mapping.file or mapping.size_bytes != guest_ram_bytes
    )


def pss_as_if_alone(pid: int, shared_files: Container[str]) -> int:
    """Return the Pss that a process would have if the bench, also Python, did not run beside it.

    Pages of files that only programs like ours map count in full; those of `shared_files`, which
    processes that belong on a node map too, by their share.
    """
    return sum(
        mapping.rss_bytes
        if mapping.file and mapping.file not in shared_files
        else mapping.pss_bytes
        for mapping in mappings(pid)
    )


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, of all its threads; 0 if it is gone."""
    process = identify(pid)
    times = None if process is None else cpu_times(process)
    return 0.0 if times is None else times.user_s + times.system_s


def descendants(pid: int) -> Iterator[int]:
    """Yield every live process that `pid` started, or one of those, but for zombies."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = _parent(entry)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    waiting = children.get(pid, [])
    while waiting:
        child = waiting.pop()
        yield child
        waiting += children.get(child, [])


def _parent(entry: Path) -> int | None:
    try:
        stat = (entry / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command name may hold spaces and parentheses: the last ")" ends it.
    state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
    return None if state in "ZX" else int(parent)


def meminfo_bytes(key: str) -> int:
    """Return a value of /proc/meminfo, e.g. `MemAvailable`."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * KIB
    raise KeyError(key)
