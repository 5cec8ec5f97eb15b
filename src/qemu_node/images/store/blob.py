"""An image's file in the cache, and the hard links by which VMs use it.

Owns the file's name, making the link of a VM (`base.img`), and finding who has one. Nothing is
counted: the kernel keeps the bytes as long as a file has a name, so the cache may remove its own
name at any time, and a VM's link goes with its directory, whoever removes that. The image is
read-only and belongs to the owner of the cache. A VM cannot write to its own directory, so no guest
that took over its QEMU can put another file in the link's place.

Without root, image and link belong to one user: `fs.protected_hardlinks` lets a user link to files
of his own (Documentation/admin-guide/sysctl/fs.rst).
"""

import contextlib
import errno
import os
import re
import stat
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files import atomic
from qemu_node.images.errors import ImageGoneError, storage_errors
from qemu_node.images.format.imagefile import ImageFormat

BASE_NAME = "base.img"
"""The link's name in the directory of a VM."""

FileId = tuple[int, int]
"""Device and inode."""

_BLOB_NAME = re.compile(
    rf"sha256-(?P<sha256>[0-9a-f]{{64}})\.(?P<format>{'|'.join(map(re.escape, ImageFormat))})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """An image's file as it was found."""

    path: Path
    sha256: str
    """The digest of its content when it was placed."""
    format: ImageFormat
    size_bytes: int
    allocated_bytes: int
    last_used_at: float
    """Unix time."""
    file_id: FileId
    is_linked: bool
    """It has another name, the link of a VM."""


def list_blobs(directory: Path) -> list[Blob]:
    """Return the image files in `directory`, by name; other files are left out.

    Raises:
        ImageStorageError: the directory cannot be read.
    """
    found = []
    # There is no directory before the first image.
    with storage_errors("read", directory), contextlib.suppress(FileNotFoundError):
        for path in sorted(directory.iterdir()):
            match = _BLOB_NAME.fullmatch(path.name)
            with contextlib.suppress(FileNotFoundError):
                info = path.lstat()
                if match is not None and stat.S_ISREG(info.st_mode):
                    found.append(_blob(path, match, info))
    return found


def link_base(blob: Path, fd: int, base: Path) -> None:
    """Make `base` a hard link to the cached image `blob`, open as `fd`, and set its last use.

    Raises:
        ImageGoneError: the cache has removed the image, or replaced it by a new download; `base`
            was not made.
        HostError: the file system refused.
    """
    try:
        base.hardlink_to(blob)
        if not os.path.samestat(os.fstat(fd), base.lstat()):
            base.unlink()
            raise ImageGoneError(f"{blob} was replaced while the VM was being started")
        mark_used(fd)
    except FileNotFoundError as exc:
        raise ImageGoneError(f"{blob} was removed while the VM was being started") from exc
    except OSError as exc:
        raise _link_error(blob, base, exc) from exc


def set_last_used(blob: Blob, at_s: float) -> None:
    """Make Unix time `at_s` the last use of an image, which may have been removed meanwhile."""
    with storage_errors("touch", blob.path), contextlib.suppress(FileNotFoundError):
        os.utime(blob.path, (at_s, at_s), follow_symlinks=False)


def mark_used(fd: int) -> None:
    """Set the last use of the image open as `fd` to now, if this user may."""
    with contextlib.suppress(OSError):
        os.utime(fd)


def find_users(vm_data_dir: Path) -> dict[FileId, tuple[str, ...]]:
    """Return the VMs that have a link to each file, by name; looks at one file per VM.

    For messages only: whether a file is in use follows from its number of links.
    """
    users: defaultdict[FileId, list[str]] = defaultdict(list)
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(entry.name for entry in os.scandir(vm_data_dir))
    for name in names:
        with contextlib.suppress(OSError):
            info = (vm_data_dir / name / BASE_NAME).lstat()
            users[info.st_dev, info.st_ino].append(name)
    return {file_id: tuple(names) for file_id, names in users.items()}


def _link_error(blob: Path, base: Path, exc: OSError) -> HostError:
    error = atomic.host_error(f"link {blob} to", base, exc)
    if exc.errno == errno.EXDEV:
        error.hint = "`images` and `vm` in the data directory must be on one file system"
    elif exc.errno == errno.EPERM:
        error.hint = "the file system has no hard links, or the image is another user's"
    return error


def _blob(path: Path, match: re.Match[str], info: os.stat_result) -> Blob:
    return Blob(
        path=path,
        sha256=match["sha256"],
        format=ImageFormat(match["format"]),
        size_bytes=info.st_size,
        allocated_bytes=info.st_blocks * 512,
        last_used_at=info.st_mtime,
        file_id=(info.st_dev, info.st_ino),
        is_linked=info.st_nlink > 1,
    )
