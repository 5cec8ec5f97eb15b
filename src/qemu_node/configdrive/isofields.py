"""Numbers, dates and blocks as an ISO 9660 image has them: pure.

Owns their encoding. Numbers are written in both byte orders one after the other, little endian
first, where ECMA-119 (4th edition) 7.2.3 and 7.3.3 say so.
"""

import struct
from datetime import UTC, datetime

BLOCK_BYTES = 2048


def both16(value: int) -> bytes:
    """Return a number of 16 bits (7.2.3)."""
    return struct.pack("<H", value) + struct.pack(">H", value)


def both32(value: int) -> bytes:
    """Return a number of 32 bits (7.3.3)."""
    return struct.pack("<I", value) + struct.pack(">I", value)


def short_date(moment: datetime) -> bytes:
    """Return the date of a directory record (9.1.5), in UTC."""
    utc = moment.astimezone(UTC)
    parts = (utc.year - 1900, utc.month, utc.day, utc.hour, utc.minute, utc.second, 0)
    return bytes(parts)


def long_date(moment: datetime) -> bytes:
    """Return the date of a volume descriptor (8.4.26.1), in UTC."""
    return moment.astimezone(UTC).strftime("%Y%m%d%H%M%S00").encode() + b"\0"


def blocks_of(size_bytes: int) -> int:
    """Return how many blocks so many bytes take."""
    return -(-size_bytes // BLOCK_BYTES)


def padded(data: bytes) -> bytes:
    """Return `data` with zeros up to the end of its last block."""
    return data + bytes(-len(data) % BLOCK_BYTES)
