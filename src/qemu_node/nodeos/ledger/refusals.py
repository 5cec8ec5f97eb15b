"""The images that this node refuses, because they did not come up or an operator went back.

Owns the file `refused` on /oem. A node that went back must not install the same image again by
itself, and again.
"""

from collections.abc import Iterable

import msgspec

from qemu_node.nodeos.ledger.lines import read_lines, write_lines
from qemu_node.nodeos.paths import NodePaths

_MOST = 200


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is refused."""

    digest: str
    tag: str = ""
    reason: str = ""
    at: str = ""
    """RFC 3339."""


def read_refused(paths: NodePaths) -> list[Refusal]:
    """Return what is refused, the oldest first.

    Raises:
        HostError: the file cannot be read.
    """
    return read_lines(paths.refused, Refusal)


def refuse(paths: NodePaths, refusal: Refusal) -> None:
    """Add an image; one that is there already stays as it is. It survives a power cut.

    Raises:
        HostError: it cannot be written; the file is as it was.
    """
    known = read_refused(paths)
    if refusal.digest and all(entry.digest != refusal.digest for entry in known):
        write_lines(paths, paths.refused, [*known, refusal], most=_MOST)


def forgive(paths: NodePaths, digests: Iterable[str]) -> None:
    """Take images off the list.

    Raises:
        HostError: it cannot be written; the file is as it was.
    """
    gone = frozenset(digests)
    known = read_refused(paths)
    kept = [entry for entry in known if entry.digest not in gone]
    if len(kept) < len(known):
        write_lines(paths, paths.refused, kept, most=_MOST)
