"""Whether another Elemental changes this node's disks now.

Owns finding it. `qemu-node os` keeps its own commands apart by a lock; somebody may call
/usr/bin/elemental all the same, and that knows no lock.
"""

import os
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.process.identity import command_line, read_stat
from qemu_node.nodeos.paths import NodePaths

_CHANGING = frozenset({"install", "reset", "upgrade", "upgrade-recovery"})


def require_no_other(paths: NodePaths) -> None:
    """Return unless an Elemental changes the system that has not started us. Blocks.

    Two of them would take each other's new snapshot for a left-over, and unmount its tree.

    Raises:
        HostError: there is one.
    """
    own = _ancestors(os.getpid())
    for name in os.listdir("/proc"):  # noqa: PTH208 - names alone
        if not name.isdecimal() or int(name) in own:
            continue
        # Anybody can call a process of his own by any name.
        if not _is_ours(int(name)):
            continue
        words = command_line(int(name), wait_s=0)
        if _is_elemental(int(name), words, paths) and _CHANGING & set(words):
            raise HostError(
                f"another Elemental is changing this node's system: process {name}",
                hint="wait until it is done",
            )


def _is_ours(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}").stat().st_uid == os.geteuid()
    except OSError:
        return False


def _is_elemental(pid: int, words: list[str], paths: NodePaths) -> bool:
    try:
        program = Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        program = Path()
    # A script, as in tests, is the second word.
    return program == paths.elemental or str(paths.elemental) in words[:2]


def _ancestors(pid: int) -> set[int]:
    """Return `pid` and the processes that it comes from."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        fields = read_stat(pid)
        pid = int(fields[1]) if fields else 0
    return found
