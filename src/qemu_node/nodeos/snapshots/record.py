"""What we note about a snapshot, in a file beside its image.

Owns that file. It is removed with the snapshot, so that nothing is told of a number that Elemental
has given to another image since. Elemental ignores it.
"""

from pathlib import Path

import msgspec

from qemu_node.host.files.atomic import write_atomic
from qemu_node.text import DECODE_ERRORS

_NAME = "qemu-node.json"
_VERSION = 1


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a snapshot. Times are RFC 3339."""

    version: int = _VERSION
    tag: str = ""
    digest: str = ""
    """Of the image's manifest; empty for the one of the installation medium."""
    source: str = ""
    created: str = ""
    """When the image was built, as its manifest says."""
    installed_at: str = ""
    attempts: int = 0
    """How many boots of it began before it was confirmed."""
    confirmed_at: str = ""
    """When it first passed the health check; empty if it has not."""

    @property
    def is_confirmed(self) -> bool:
        """Whether the image has ever passed the health check on this node."""
        return bool(self.confirmed_at)


def record_path(snapshot: Path) -> Path:
    """Return where the record of the snapshot in the directory `snapshot` is."""
    return snapshot / _NAME


def read_record(snapshot: Path) -> SnapshotRecord | None:
    """Return the record of a snapshot; None if there is none, or none that is understood."""
    try:
        record = msgspec.json.decode(record_path(snapshot).read_bytes(), type=SnapshotRecord)
    except (OSError, *DECODE_ERRORS):
        return None
    return record if record.version == _VERSION else None


def write_record(snapshot: Path, record: SnapshotRecord) -> None:
    """Write the record of a snapshot; it survives a power cut.

    Raises:
        HostError: it cannot be written; it is as it was.
    """
    write_atomic(record_path(snapshot), msgspec.json.encode(record) + b"\n", is_durable=True)
