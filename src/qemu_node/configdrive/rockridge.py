"""Rock Ridge: what makes an ISO 9660 image's entries files of POSIX: pure.

Owns the system use areas of directory records. Does not own the records (`iso9660`).

The sources: SUSP (IEEE P1281) and RRIP (IEEE P1282), both 1.09.
"""

from datetime import datetime

from qemu_node.configdrive.isofields import both32, short_date
from qemu_node.configdrive.isotree import PARENT, SELF, Entry

_MODE_FILE = 0o100444
_MODE_DIRECTORY = 0o040555

# RRIP 1.09 4.3: every reader looks for the first, which is the extension's name.
_EXTENSION = (
    b"RRIP_1991A",
    b"THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS",
    b"PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN "
    b"PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.",
)


class RockRidge:
    """The system use areas of directory records: names, modes and dates for POSIX (RRIP 1.09)."""

    _HAS_MODE, _HAS_NAME, _HAS_DATES = 0x01, 0x08, 0x80

    def __init__(self, made_at: datetime) -> None:
        """Prepare what all records have in common; `made_at` is the date of all entries."""
        self.block = 0
        """Where `continuation` is."""
        name, description, source = _EXTENSION
        sizes = bytes([len(name), len(description), len(source), 1])
        self.continuation = _use(b"ER", sizes + name + description + source)
        # Modified, read, changed (4.1.6).
        self._dates = _use(b"TF", b"\x0e" + 3 * short_date(made_at))

    def of_entry(self, entry: Entry, name: bytes) -> bytes:
        """Return the area of the record that `entry` has under `name`."""
        is_named = name not in (SELF, PARENT)
        has = self._HAS_MODE | self._HAS_DATES | (self._HAS_NAME if is_named else 0)
        area = _use(b"RR", bytes([has]))
        if is_named:
            area += _use(b"NM", b"\0" + entry.name.encode())
        area += self._mode(entry) + self._dates
        if name == SELF and entry.parent is None:
            # SUSP 5.3: the first record of the root shows that there are such areas at all.
            first = _use(b"SP", b"\xbe\xef\0")
            rest = both32(self.block) + both32(0) + both32(len(self.continuation))
            area = first + area + _use(b"CE", rest)
        return area

    @staticmethod
    def _mode(entry: Entry) -> bytes:
        mode, links = _MODE_FILE, 1
        if entry.is_directory:
            mode = _MODE_DIRECTORY
            links = 2 + sum(child.is_directory for child in entry.children)
        # User and group are root.
        return _use(b"PX", both32(mode) + both32(links) + both32(0) + both32(0))


def _use(signature: bytes, data: bytes) -> bytes:
    """Return an entry of a system use area (SUSP 4.1), of version 1."""
    return signature + bytes([4 + len(data), 1]) + data
