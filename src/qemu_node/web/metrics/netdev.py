"""/proc/net/dev: what has passed each network device; one small read for all of them. Pure.

Columns of that file (man 5 proc_pid_net; net/core/net-procfs.c): bytes, packets, errs, drop, and
four more, of what the node has received; then the same of what it has sent.
"""

from dataclasses import dataclass
from pathlib import Path

NET_DEV = Path("/proc/self/net/dev")
_COLUMNS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Of one TAP, as its guest sees it: what the node receives there, the guest has sent."""

    sent_bytes: int
    sent_frames: int
    send_drops: int
    received_bytes: int
    received_frames: int
    receive_drops: int


def parse_net_dev(text: str) -> dict[str, Traffic]:
    """Return the traffic by device; lines that are none are left out."""
    found = {}
    for line in text.splitlines():
        name, colon, rest = line.rpartition(":")
        columns = rest.split()
        if not colon or len(columns) < _COLUMNS or not all(map(_is_count, columns)):
            continue
        numbers = [int(column) for column in columns]
        found[name.strip()] = Traffic(
            sent_bytes=numbers[0],
            sent_frames=numbers[1],
            send_drops=numbers[3],
            received_bytes=numbers[8],
            received_frames=numbers[9],
            receive_drops=numbers[11],
        )
    return found


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit()
