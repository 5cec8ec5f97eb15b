"""An image on its way into the cache: digested and unpacked as it arrives, placed by rename.

Owns up to three files of the cache's `partial` directory, for which the caller holds the lock:

    <key>            what has been received
    <key>.json       PartialInfo: which file that is a part of; written before the first byte
    <key>.unpacked   what a compressed file unpacks to; made again by each process

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

import msgspec

from qemu_node.host.files.space import MakeRoom, make_no_room, read_space
from qemu_node.host.process.identity import boot_id
from qemu_node.images.errors import ImageStorageError, storage_errors
from qemu_node.images.format import imagefile
from qemu_node.images.format.unpack import MAGIC_BYTES, Packing, Unpacker, packing_of
from qemu_node.images.source.checksum import Algorithm, Checksum
from qemu_node.images.store.growingfile import GrowingFile
from qemu_node.text import DECODE_ERRORS
from qemu_node.units import MIB

_REREAD_BYTES = MIB


class Aborted(Exception):
    """The work was told to stop."""


class PartialInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Which file the bytes beside it are a part of.

    Read by the next process that downloads it, and by those that wait for another process.
    """

    url: str
    """Without user, password and query."""
    etag: str | None
    """Strong; without one the download cannot be resumed."""
    total_bytes: int | None
    boot_id: str
    """Bytes that were not synced survive the process that wrote them, not a power cut."""

    @property
    def is_resumable(self) -> bool:
        """Whether the download can be resumed."""
        return self.etag is not None and self.boot_id == boot_id()


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLimits:
    """How much of the file system a download may use."""

    max_unpacked_bytes: int = 1 << 62
    """The largest size that a compressed file may unpack to."""
    reserve_bytes: int = 0
    """Free space that must remain."""
    make_room: MakeRoom = make_no_room
    """Called with how much must be free if it is not; removes images that nobody uses."""


_NO_LIMITS = DiskLimits()


class PartialFile:
    """The files of one download; they are placed, kept for later or discarded.

    Discarding after one of the others does nothing.
    """

    def __init__(
        self, path: Path, fd: int, algorithms: Collection[Algorithm], limits: DiskLimits
    ) -> None:
        self._path = path
        self._received = GrowingFile(path, fd)
        self._unpacked: GrowingFile | None = None
        self._unpacker: Unpacker | None = None
        self._algorithms = frozenset(algorithms) | {Algorithm.SHA256}
        # All of them, until the first bytes show that the file is not compressed. A compressed file
        # keeps all: once it is unpacked, the bytes that were served cannot be read again.
        self._hashes = {algorithm: hashlib.new(algorithm) for algorithm in Algorithm}
        self._content_sha256 = self._hashes[Algorithm.SHA256]
        self._digester = ThreadPoolExecutor(max_workers=1, thread_name_prefix="digest")
        self._head: bytes | None = b""
        self._limits = limits
        self._is_stopped = False

    @classmethod
    def create(
        cls, path: Path, algorithms: Collection[Algorithm], limits: DiskLimits = _NO_LIMITS
    ) -> "PartialFile":
        """Begin again at `path`, the `<key>` above; the files of an earlier download are removed.

        `algorithms` are the digests of what is received that are asked for.

        Raises:
            ImageStorageError: the file cannot be made.
        """
        remove(path)
        # A new inode each time: an old one may have been placed by a process that died since.
        with storage_errors("create", path):
            return cls(path, _create(path), algorithms, limits)

    @classmethod
    def reopen(
        cls, path: Path, algorithms: Collection[Algorithm], limits: DiskLimits = _NO_LIMITS
    ) -> "tuple[PartialFile, PartialInfo] | None":
        """Return what an earlier process received at `path`; None if that cannot be resumed.

        Its bytes are still to be read: `reread`.
        """
        info = read_info(path)
        if info is None or not info.is_resumable:
            return None
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        found = os.fstat(fd)
        longest = limits.max_unpacked_bytes if info.total_bytes is None else info.total_bytes
        is_ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if not is_ours or not 0 < found.st_size <= longest:
            os.close(fd)
            return None
        return cls(path, fd, algorithms, limits), info

    @property
    def is_open(self) -> bool:
        """Whether it was neither discarded nor kept for later."""
        return self._received.fd >= 0

    @property
    def received_bytes(self) -> int:
        """How much has been received."""
        return self._received.size_bytes

    @property
    def size_bytes(self) -> int:
        """How long that is, unpacked."""
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

    def expect(self, more_bytes: int) -> None:
        """Check that `more_bytes` more fit on the disk; make room for them if they do not.

        Called for each piece: other downloads use the same disk, and the size to which a compressed
        file unpacks is not known before.

        Raises:
            ImageStorageError: they do not fit, and no room can be made.
        """
        free_bytes = self._free_bytes()
        if more_bytes > free_bytes:
            self._limits.make_room(more_bytes + self._limits.reserve_bytes)
            free_bytes = self._free_bytes()
        if more_bytes > free_bytes:
            raise ImageStorageError(
                f"the image takes {more_bytes} bytes and {self._path.parent} has room for "
                f"{free_bytes}",
                hint="free space there, or use a larger disk",
            )

    def _free_bytes(self) -> int:
        free_bytes = read_space(self._path.parent).free_bytes
        return max(free_bytes - self._limits.reserve_bytes, 0)

    def reread(self) -> None:
        """Digest and unpack what an earlier process received, as if it arrived now.

        Raises:
            ImageStorageError: the host refused.
            UnsafeImageError, Aborted: as `write`.
        """
        offset = 0
        while True:
            with storage_errors("read", self._path):
                chunk = os.pread(self._received.fd, _REREAD_BYTES, offset)
            if not chunk:
                return
            if self._is_stopped:
                raise Aborted
            offset += len(chunk)
            self._received.size_bytes = offset
            with self._digesting((chunk,)):
                self._take(chunk)

    def write(self, *chunks: bytes) -> None:
        """Append `chunks` to what has been received.

        Raises:
            ImageStorageError: the host refused, or the disk is full.
            UnsafeImageError: it is compressed, and damaged or too large; see `Unpacker.feed`.
            Aborted: `stop` was called.
        """
        self.expect(sum(map(len, chunks)))
        with self._digesting(chunks):
            for chunk in chunks:
                self._received.append(chunk)
                self._take(chunk)

    def finish(self) -> None:
        """Finish the content: nothing follows.

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
        """Return the descriptor of the content, to check what was written."""
        return self._content.fd

    def checksum(self, algorithm: Algorithm) -> Checksum:
        """Return the digest of what was received; `algorithm` is one of those asked for."""
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

    def keep(self) -> None:
        """Close the file and keep it, so that the download can be resumed later."""
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
        """Digest what has been received while it is stored and unpacked: each needs a CPU."""
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
        self._unpacker = Unpacker(packing, max_bytes=self._limits.max_unpacked_bytes)
        self._content_sha256 = hashlib.sha256()
        path = _unpacked_path(self._path)
        with storage_errors("create", path):
            path.unlink(missing_ok=True)
            self._unpacked = GrowingFile(path, _create(path))
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


def info_path(partial: Path) -> Path:
    """Return where the `PartialInfo` of a partial file is."""
    return partial.with_name(f"{partial.name}.json")


def write_info(partial: Path, *, url: str, etag: str | None, total_bytes: int | None) -> None:
    """Write the `PartialInfo` of a partial file, whose lock the caller holds."""
    path = info_path(partial)
    info = PartialInfo(url=url, etag=etag, total_bytes=total_bytes, boot_id=boot_id())
    with storage_errors("write", path):
        # In place: a reader ignores one that is only half written.
        path.write_bytes(msgspec.json.encode(info))
        path.chmod(0o600)


def read_info(partial: Path) -> PartialInfo | None:
    """Return the `PartialInfo` of a partial file, None if there is none that can be read."""
    with contextlib.suppress(OSError, *DECODE_ERRORS):
        return msgspec.json.decode(info_path(partial).read_bytes(), type=PartialInfo)
    return None


def progress_at(partial: Path) -> tuple[int, int | None]:
    """Return how many bytes another process has received at `partial`, and of how many in all."""
    try:
        done_bytes = partial.stat().st_size
    except OSError:
        return 0, None
    info = read_info(partial)
    return done_bytes, None if info is None else info.total_bytes


def remove(path: Path) -> None:
    """Remove the partial file `path` with all that belongs to it, as far as the host allows."""
    # The description first: nobody resumes bytes without one, and it may no longer fit them.
    for each in (info_path(path), path, _unpacked_path(path)):
        with contextlib.suppress(OSError):
            each.unlink(missing_ok=True)


def _create(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


def _unpacked_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.unpacked")


def _digest(hashes: Sequence["hashlib._Hash"], chunks: Sequence[bytes]) -> None:
    for chunk in chunks:
        for each in hashes:
            each.update(chunk)
