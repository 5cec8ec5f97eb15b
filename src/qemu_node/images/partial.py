"""A download until it is complete: written in order, digested as it arrives, placed by rename.

Owns one file in the cache's `partial` directory. Does not own which one (`store`) nor whether its
content is good (`checksum`, `imagefile`). The methods block: call them through `to_the_end`.
"""

import contextlib
import hashlib
import os
from collections.abc import Collection, Generator
from pathlib import Path

from qemu_node.host import files
from qemu_node.images.checksum import Algorithm, Checksum
from qemu_node.images.errors import ImageStorageError

IMAGE_MODE = 0o444
"""Nobody writes to an image again; VMs of any user read it."""


class PartialFile:
    """A file that grows; it is placed or discarded, and discarding a placed one does nothing."""

    def __init__(self, path: Path, algorithms: Collection[Algorithm]) -> None:
        """Begin anew at `path`, whose lock the caller holds; what was there is removed.

        Raises:
            ImageStorageError: the file cannot be made.
        """
        self._path = path
        self._hashes = {algorithm: hashlib.new(algorithm) for algorithm in algorithms}
        self.size_bytes = 0
        with self._translated("create"):
            # A new inode each time: an old one may have been placed by a process that died since.
            path.unlink(missing_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @property
    def is_open(self) -> bool:
        """Whether it was not discarded yet."""
        return self._fd >= 0

    def expect(self, total_bytes: int) -> None:
        """Check that `total_bytes` more would fit.

        Raises:
            ImageStorageError: they would not.
        """
        free_bytes = files.free_bytes(self._path.parent)
        if total_bytes > free_bytes:
            raise ImageStorageError(
                f"the image takes {total_bytes} bytes and {self._path.parent} has room for "
                f"{free_bytes}",
                hint="free space there, or give images a larger disk",
            )

    def write(self, chunk: bytes) -> None:
        """Append `chunk`.

        Raises:
            ImageStorageError: the host refused.
        """
        with self._translated("write"):
            files.write_all(self._fd, chunk)
            for digest in self._hashes.values():
                digest.update(chunk)
            self.size_bytes += len(chunk)

    def fileno(self) -> int:
        """Return the descriptor, for looking at what was written."""
        return self._fd

    def checksum(self, algorithm: Algorithm) -> Checksum:
        """Return the digest of all that was written; `algorithm` is one of those named at first."""
        return Checksum(algorithm, self._hashes[algorithm].hexdigest())

    def place(self, final: Path) -> None:
        """Make the file appear as `final`, complete and on stable storage, or not at all.

        Raises:
            ImageStorageError: the host refused.
        """
        with self._translated("place"):
            os.fchmod(self._fd, IMAGE_MODE)
            os.fsync(self._fd)
            self._path.rename(final)
            directory = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> None:
        """Close the file, and remove it unless it was placed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _translated(self, action: str) -> Generator[None]:
        try:
            yield
        except OSError as exc:
            error = files.host_error(action, self._path, exc)
            raise ImageStorageError(str(error), hint=error.hint) from exc
