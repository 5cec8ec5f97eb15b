"""The node's own figures: memory, KSM, the data disk, and what its driver has written down.

Owns reading what needs no root. Does not own the driver's file (`vm.record.nodefile`).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qemu_node.config.node import NodeConfig
from qemu_node.errors import HostError
from qemu_node.host.files.reading import read_or_empty
from qemu_node.host.files.space import DiskSpace, read_space
from qemu_node.vm.record.nodefile import NodeFacts, read_node

KSM = Path("/sys/kernel/mm/ksm")
_MEMINFO = Path("/proc/meminfo")


class KsmView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Kernel same-page merging (Linux, admin-guide/mm/ksm.rst)."""

    is_running: bool
    merged_bytes: int
    """What it saves."""
    shared_bytes: int
    """What the merged pages take."""
    full_scans: int
    profit_bytes: int | None = None
    """What it saves less what its own lists take; None: a kernel before 6.4."""


class MemoryOfNode(msgspec.Struct, frozen=True, kw_only=True):
    """The node's memory."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFigures:
    """All of them, as they were read; None: not known."""

    memory: MemoryOfNode | None = None
    ksm: KsmView | None = None
    """None: this kernel has none."""
    disk: DiskSpace | None = None
    """The file system of `paths.data`."""
    reserve_bytes: int | None = None
    """What is kept free of it."""
    driver: NodeFacts | None = None


def read_figures(config: NodeConfig) -> NodeFigures:
    """Return the figures of this node. Blocks for a few small reads."""
    try:
        disk = read_space(Path(config.paths.data))
    except HostError:
        disk = None
    return NodeFigures(
        memory=parse_meminfo(read_or_empty(_MEMINFO)),
        ksm=read_ksm(KSM),
        disk=disk,
        reserve_bytes=None if disk is None else config.disk.reserved.of(disk.total_bytes),
        driver=read_node(config.paths),
    )


def parse_meminfo(text: str) -> MemoryOfNode | None:
    """Return the memory that /proc/meminfo tells (man 5 proc); None if it does not: pure."""
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number = rest.strip().partition(" ")[0]
        if number.isascii() and number.isdigit():
            sizes[name] = int(number) * 1024
    try:
        return MemoryOfNode(total_bytes=sizes["MemTotal"], available_bytes=sizes["MemAvailable"])
    except KeyError:
        return None


def read_ksm(directory: Path) -> KsmView | None:
    """Return what the kernel says of KSM in `directory`; None if it has none."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    try:
        profit = read_or_empty(directory / "general_profit")
        return KsmView(
            is_running=int(read_or_empty(directory / "run")) == 1,
            merged_bytes=int(read_or_empty(directory / "pages_sharing")) * page_bytes,
            shared_bytes=int(read_or_empty(directory / "pages_shared")) * page_bytes,
            full_scans=int(read_or_empty(directory / "full_scans")),
            profit_bytes=int(profit) if profit else None,
        )
    except ValueError:
        return None
