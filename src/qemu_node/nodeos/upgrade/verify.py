"""Checking that a snapshot's image holds on the disk what was downloaded.

Elemental unpacks an image's layers, which it checks by their digests, and copies the files into a
file system image. Nothing checks that copy: on a disk that is full or fails, files of it were seen
to hold zeros (harvester/harvester#10687), and the switch to it was made all the same. So the files
are listed with a sum each before the copy, and read back afterwards, from the disk.

Owns both lists. The sums find damage, not an attacker: who can write there is root.
"""

import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from qemu_node.host.files.atomic import host_error
from qemu_node.host.files.directories import open_directory

_CHUNK_BYTES = 1 << 20
# What is no part of an image, or is mounted over by Elemental while it works.
_SKIPPED = frozenset({"run", "proc", "sys", "dev", "tmp", "mnt", "host", "oem", "lost+found"})
_SHOWN = 3


class FileSum(msgspec.Struct, frozen=True, array_like=True):
    """A file, link or directory of an image."""

    kind: str
    """`f`, `l`, `d`, or `o` for anything else."""
    size_bytes: int = 0
    sum: int = 0
    target: str = ""


Listing = dict[str, FileSum]


def list_tree(root: Path) -> Listing:
    """Return every file below `root` by its path, with a sum of its content. Blocks.

    Raises:
        HostError: a file cannot be read.
    """
    return dict(_walk(root, ""))


def _walk(root: Path, inside: str) -> Iterator[tuple[str, FileSum]]:
    directory = root / inside if inside else root
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as exc:
        raise host_error("list", directory, exc) from exc
    for entry in found:
        if not inside and entry.name in _SKIPPED:
            continue
        path = f"{inside}/{entry.name}" if inside else entry.name
        try:
            info = entry.stat(follow_symlinks=False)
            yield path, _sum_of(root / path, info)
        except OSError as exc:
            raise host_error("read", root / path, exc) from exc
        if stat.S_ISDIR(info.st_mode):
            yield from _walk(root, path)


def _sum_of(path: Path, info: os.stat_result) -> FileSum:
    if stat.S_ISLNK(info.st_mode):
        return FileSum("l", target=str(path.readlink()))
    if stat.S_ISDIR(info.st_mode):
        return FileSum("d")
    if not stat.S_ISREG(info.st_mode):
        return FileSum("o")
    total, size_bytes = 0, 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            total = zlib.crc32(chunk, total)
            size_bytes += len(chunk)
    return FileSum("f", size_bytes=size_bytes, sum=total)


def differences(wanted: Listing, root: Path) -> list[str]:
    """Return the files of `wanted` that are missing below `root`, or have another content. Blocks.

    What `root` has besides is left alone: Elemental adds directories.
    """
    wrong = []
    for path, expected in wanted.items():
        place = root / path
        try:
            if _sum_of(place, place.lstat()) == expected:
                continue
        except OSError:
            pass
        wrong.append(path)
    return wrong


def describe(wrong: list[str]) -> str:
    """Return the differences in words: pure."""
    shown = ", ".join(f"/{path}" for path in wrong[:_SHOWN])
    more = len(wrong) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def write_listing(path: Path, listing: Listing) -> None:
    """Keep a listing for the other side of Elemental's copy.

    Raises:
        HostError: it cannot be written.
    """
    open_directory(path.parent, 0o755)
    try:
        path.write_bytes(msgspec.msgpack.encode(listing))
    except OSError as exc:
        raise host_error("write", path, exc) from exc


def read_listing(path: Path) -> Listing | None:
    """Return a listing that was kept; None if there is none."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Listing)
    except (OSError, msgspec.DecodeError):
        return None


def drop_from_cache(path: Path) -> None:
    """Have the next read of `path` come from the disk: it is written out, then forgotten. Blocks.

    Raises:
        HostError: the disk did not take it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    except OSError as exc:
        raise host_error("write", path, exc) from exc
