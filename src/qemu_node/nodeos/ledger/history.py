"""What happened to the node's system: installed, confirmed, gone back, failed.

Owns the file `history.jsonl` on /oem. Nothing decides by it; it is for people.
"""

from enum import StrEnum

import msgspec

from qemu_node.nodeos.ledger.lines import now, read_lines, write_lines
from qemu_node.nodeos.paths import NodePaths

_MOST = 500


class Event(StrEnum):
    """What happened."""

    INSTALLED = "installed"
    """An image was installed; it runs after the next boot."""
    CONFIRMED = "confirmed"
    """An image passed the health check for the first time."""
    FELL_BACK = "fell back"
    """An image did not come up, and an older one was made the active one."""
    ROLLED_BACK = "rolled back"
    """An operator made another image the active one."""
    FAILED = "failed"
    """An upgrade failed; the running system is as it was."""
    REMOVED = "removed"
    """A snapshot was removed."""


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An event."""

    at: str
    event: str
    snapshot: int | None = None
    tag: str = ""
    digest: str = ""
    note: str = ""


def read_history(paths: NodePaths) -> list[HistoryEntry]:
    """Return the events, the oldest first.

    Raises:
        HostError: the file cannot be read.
    """
    return read_lines(paths.history, HistoryEntry)


def note_event(
    paths: NodePaths,
    event: Event,
    *,
    snapshot: int | None = None,
    tag: str = "",
    digest: str = "",
    note: str = "",
) -> None:
    """Add an event that happens now. It survives a power cut.

    Raises:
        HostError: it cannot be written; the file is as it was.
    """
    entry = HistoryEntry(
        at=now(), event=event, snapshot=snapshot, tag=tag, digest=digest, note=note
    )
    write_lines(paths, paths.history, [*read_history(paths), entry], most=_MOST)
