"""A file that is only ever appended to, and sent to the disk as it grows.

Owns writing it. Does not own what is in it (`partialfile`). Its methods block.
"""

import os
from pathlib import Path

from qemu_node.host.files import holes
from qemu_node.images.errors import storage_errors
from qemu_node.units import MIB

_HOLE_BYTES = 64 << 10
_WRITEBACK_BYTES = 16 * MIB
_WRITE_BYTES = 256 << 10
"""How much one system call writes. For more the page cache takes large folios, and to find these
takes three times as long as to fill small ones (ext4, Linux 6.18)."""


class GrowingFile:
    """A file that is only ever appended to; its owner opened it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size_bytes = 0
        self._sent_bytes = 0

    def append(self, data: bytes) -> None:
        """Append `data`.

        Raises:
            ImageStorageError: the host refused.
        """
        with storage_errors("write", self.path):
            _write_at(self.fd, data, self.size_bytes)
        self._grow(len(data))

    def append_sparse(self, data: bytes) -> None:
        """Append `data`, with holes for zeros: a raw image is mostly zeros.

        Raises:
            ImageStorageError: the host refused.
        """
        with storage_errors("write", self.path):
            for start in range(0, len(data), _HOLE_BYTES):
                block = data[start : start + _HOLE_BYTES]
                if block.count(0) != len(block):
                    _write_at(self.fd, block, self.size_bytes + start)
        self._grow(len(data))

    def _grow(self, more_bytes: int) -> None:
        self.size_bytes += more_bytes
        if self.size_bytes - self._sent_bytes >= _WRITEBACK_BYTES:
            # The disk writes this while the rest arrives, so the last fsync(2) is short.
            holes.start_writeback(self.fd, self._sent_bytes, self.size_bytes - self._sent_bytes)
            self._sent_bytes = self.size_bytes

    def finish(self) -> None:
        """Set the file's length: a hole at its end has not extended it.

        Raises:
            ImageStorageError: the host refused.
        """
        with storage_errors("write", self.path):
            os.ftruncate(self.fd, self.size_bytes)

    def close(self) -> None:
        """Close the file; harmless if it is closed already."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view[:_WRITE_BYTES], offset)
        view, offset = view[written:], offset + written
