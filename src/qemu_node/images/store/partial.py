"""A download until it is complete: digested and unpacked as it arrives, placed by rename.

Owns up to three files of the cache's `partial` directory, for which the caller holds the lock:

    <key>            what has been received
    <key>.json       Sidecar: what that is a part of (`sidecar`); written before the first byte
    <key>.unpacked   what a compressed file unpacks to; made anew by each process

Does not own which key (`store`) nor whether the content is good (`checksum`, `imagefile`). The
methods block: call them through `to_the_end`.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from qemu_node.host.files.space import MakeRoom, make_no_room, read_space
from qemu_node.host.process.identity import boot_id
from qemu_node.images.errors import ImageStorageError, storage_errors
from qemu_node.images.format import imagefile
from qemu_node.images.format.unpack import MAGIC_BYTES, Packing, Unpacker, packing_of
from qemu_node.images.source.checksum import Algorithm, Checksum
from qemu_node.images.store.growingfile import GrowingFile
from qemu_node.images.store.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar
from qemu_node.units import MIB

_NO_LIMIT = 1 << 62
_REREAD_BYTES = MIB


class Aborted(Exception):
    """The work was told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What of the file system a download may take."""

    reserve_bytes: int = 0
    """Free space that must remain."""
    make: MakeRoom = make_no_room
    """Called with how much has to be free where it is not; removes what others can do without."""


_ALL_ROOM = Room()


class PartialFile:
    """A file that grows; it is placed, left for later or discarded.

    Discarding one that was placed or left does nothing.
    """

    def __init__(
        self,
        path: Path,
        algorithms: Collection[Algorithm],
        *,
        max_bytes: int = _NO_LIMIT,
        room: Room = _ALL_ROOM,
    ) -> None:
        """Begin anew at `path`; what was there is removed.

        Args:
            path: `<key>` above.
            algorithms: Digests of what is received that are asked for.
            max_bytes: What a compressed file may unpack to.
            room: What of the file system it may take.

        Raises:
            ImageStorageError: the file cannot be made.
        """
        remove(path)
        # A new inode each time: an old one may have been placed by a process that died since.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with storage_errors("create", path):
            self._set_up(path, os.open(path, flags, 0o600), algorithms, max_bytes, room)

    @classmethod
    def left_at(
        cls,
        path: Path,
        algorithms: Collection[Algorithm],
        *,
        max_bytes: int = _NO_LIMIT,
        room: Room = _ALL_ROOM,
    ) -> "tuple[PartialFile, Sidecar] | None":
        """Return what an earlier process left at `path` and what it is a part of; None where that
        is nothing to go on with. Its bytes are still to be read: `reread`.
        """  # noqa: D205 - one sentence
        sidecar = read_sidecar(path)
        if sidecar is None or not sidecar.is_resumable:
            return None
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        info = os.fstat(fd)
        longest = max_bytes if sidecar.total_bytes is None else sidecar.total_bytes
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1 or not 0 < info.st_size <= longest:
            os.close(fd)
            return None
        self = cls.__new__(cls)
        self._set_up(path, fd, algorithms, max_bytes, room)
        return self, sidecar

    def _set_up(
        self,
        path: Path,
        fd: int,
        algorithms: Collection[Algorithm],
        max_bytes: int,
        room: Room,
    ) -> None:
        self._path = path
        self._received = GrowingFile(path, fd)
        self._unpacked: GrowingFile | None = None
        self._unpacker: Unpacker | None = None
        self._algorithms = frozenset(algorithms) | {Algorithm.SHA256}
        # Until the first bytes tell that it is not compressed: of a compressed file all digests
        # are kept, since what was served cannot be digested again once it is unpacked.
        self._hashes = {algorithm: hashlib.new(algorithm) for algorithm in Algorithm}
        self._content_sha256 = self._hashes[Algorithm.SHA256]
        self._digester = ThreadPoolExecutor(max_workers=1, thread_name_prefix="digest")
        self._head: bytes | None = b""
        self._max_bytes = max_bytes
        self._room = room
        self._is_stopped = False

    @property
    def is_open(self) -> bool:
        """Whether it was neither discarded nor left."""
        return self._received.fd >= 0

    @property
    def received_bytes(self) -> int:
        """How much has been received."""
        return self._received.size_bytes

    @property
    def size_bytes(self) -> int:
        """How much that makes, unpacked."""
        return self._content.size_bytes

    @property
    def packing(self) -> Packing | None:
        """How what is received is compressed."""
        return None if self._unpacker is None else self._unpacker.packing

    @property
    def content_path(self) -> Path:
        """Where the content is until it is placed."""
        return self._content.path

    @property
    def _content(self) -> GrowingFile:
        return self._received if self._unpacked is None else self._unpacked

    def describe(self, url: str, etag: str | None, total_bytes: int | None) -> None:
        """Write down what is going to arrive, for whoever goes on with it or looks how far it is.

        Raises:
            ImageStorageError: the host refused.
        """
        with storage_errors("write", sidecar_path(self._path)):
            write_sidecar(
                self._path,
                Sidecar(url=url, etag=etag, total_bytes=total_bytes, boot_id=boot_id()),
            )

    def expect(self, more_bytes: int) -> None:
        """Check that `more_bytes` more would fit; make room for them where they would not.

        Asked again for each piece: other downloads take of the same room, and what a compressed
        file unpacks to is not known before.

        Raises:
            ImageStorageError: there is none to be made.
        """
        free_bytes = self._free_bytes()
        if more_bytes > free_bytes:
            self._room.make(more_bytes + self._room.reserve_bytes)
            free_bytes = self._free_bytes()
        if more_bytes > free_bytes:
            raise ImageStorageError(
                f"the image takes {more_bytes} bytes and {self._path.parent} has room for "
                f"{free_bytes}",
                hint="free space there, or give images a larger disk",
            )

    def _free_bytes(self) -> int:
        return max(read_space(self._path.parent).free_bytes - self._room.reserve_bytes, 0)

    def reread(self) -> None:
        """Take in what an earlier process received, as if it arrived now.

        Raises:
            ImageStorageError: the host refused.
            UnsafeImageError, Aborted: as `write`.
        """
        offset = 0
        while chunk := self._read(offset):
            if self._is_stopped:
                raise Aborted
            offset += len(chunk)
            self._received.size_bytes = offset
            with self._digesting((chunk,)):
                self._take(chunk)

    def _read(self, offset: int) -> bytes:
        with storage_errors("read", self._path):
            return os.pread(self._received.fd, _REREAD_BYTES, offset)

    def write(self, *chunks: bytes) -> None:
        """Append `chunks` to what has been received.

        Raises:
            ImageStorageError: the host refused, or the disk gets too full.
            UnsafeImageError: it is compressed, and damaged or too large; see `Unpacker.feed`.
            Aborted: `stop` was called.
        """
        self.expect(sum(map(len, chunks)))
        with self._digesting(chunks):
            for chunk in chunks:
                self._received.append(chunk)
                self._take(chunk)

    def finish(self) -> None:
        """Hear that nothing follows.

        Raises:
            As `write`.
        """
        if self._head is not None:
            self._decide(self._head)
        if self._unpacker is not None and self._unpacked is not None:
            self._unpacker.finish()
            self._unpacked.finish()

    def stop(self) -> None:
        """Make a `write` or `reread` that runs in another thread end soon."""
        self._is_stopped = True

    def fileno(self) -> int:
        """Return the descriptor of the content, for looking at what was written."""
        return self._content.fd

    def checksum(self, algorithm: Algorithm) -> Checksum:
        """Return the digest of what was received; `algorithm` is one of those named at first."""
        return Checksum(algorithm, self._hashes[algorithm].hexdigest())

    def content_checksum(self) -> Checksum:
        """Return the digest of the content: what was received, unpacked."""
        return Checksum(Algorithm.SHA256, self._content_sha256.hexdigest())

    def place(self, final: Path) -> None:
        """Make the content appear as `final`, complete and on stable storage, or not at all.

        Raises:
            ImageStorageError: the host refused.
        """
        content = self._content
        with storage_errors("place", content.path):
            os.fchmod(content.fd, imagefile.IMAGE_MODE)
            os.fsync(content.fd)
            content.path.rename(final)
            directory = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> None:
        """Close the file, and remove it unless it was placed."""
        if self.is_open:
            self._close()
            remove(self._path)

    def leave(self) -> None:
        """Close the file and let it lie, for a later process to go on with."""
        self._close()
        with contextlib.suppress(OSError):
            _unpacked_path(self._path).unlink(missing_ok=True)

    def _close(self) -> None:
        self._digester.shutdown()
        self._received.close()
        if self._unpacked is not None:
            self._unpacked.close()

    @contextlib.contextmanager
    def _digesting(self, chunks: Sequence[bytes]) -> Generator[None]:
        """Digest what has been received while it is stored and unpacked: each takes a core."""
        done = self._digester.submit(_digest, tuple(self._hashes.values()), chunks)
        try:
            yield
        finally:
            done.result()

    def _take(self, chunk: bytes) -> None:
        """Unpack what has been received, once it is known whether it is compressed."""
        if self._head is None:
            self._unpack(chunk)
            return
        self._head += chunk
        if len(self._head) >= MAGIC_BYTES:
            self._decide(self._head)

    def _decide(self, head: bytes) -> None:
        """Find out from the first bytes whether the file is compressed."""
        self._head = None
        packing = packing_of(head)
        if packing is None:
            for algorithm in set(self._hashes) - self._algorithms:
                del self._hashes[algorithm]
            return
        self._unpacker = Unpacker(packing, max_bytes=self._max_bytes)
        self._content_sha256 = hashlib.sha256()
        path = _unpacked_path(self._path)
        with storage_errors("create", path):
            path.unlink(missing_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._unpacked = GrowingFile(path, os.open(path, flags, 0o600))
        self._unpack(head)

    def _unpack(self, chunk: bytes) -> None:
        if self._unpacker is None or self._unpacked is None:
            return
        for piece in self._unpacker.feed(chunk):
            if self._is_stopped:
                raise Aborted
            self.expect(len(piece))
            self._content_sha256.update(piece)
            self._unpacked.append_sparse(piece)


def remove(path: Path) -> None:
    """Remove the partial file `path` with all that belongs to it, as far as the host lets us."""
    # The sidecar first: without it nobody goes on with bytes that it would describe wrongly.
    for each in (sidecar_path(path), path, _unpacked_path(path)):
        with contextlib.suppress(OSError):
            each.unlink(missing_ok=True)


def _unpacked_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.unpacked")


def _digest(hashes: Sequence["hashlib._Hash"], chunks: Sequence[bytes]) -> None:
    for chunk in chunks:
        for each in hashes:
            each.update(chunk)
