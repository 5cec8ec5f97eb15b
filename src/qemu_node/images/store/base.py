"""A VM's own name for its base image: a hard link, the reference that nobody has to count.

Owns making the link and finding who has one. The kernel keeps the image's bytes as long as a name
of theirs is left, so the cache may drop its own at any time, and a VM's goes with its directory,
whoever removes that. The image is read-only and its owner's; the VM's directory is not the VM's to
write to, so no guest that took over its QEMU can put another file in the link's place.

Without root, image and link are one user's: `fs.protected_hardlinks` lets a user link to files of
his own (Documentation/admin-guide/sysctl/fs.rst).
"""

import contextlib
import errno
import os
from collections import defaultdict
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files import atomic
from qemu_node.images.errors import ImageGoneError

BASE_NAME = "base.img"
"""The link's name in the directory of a VM."""

FileId = tuple[int, int]
"""Device and inode."""


def link_base(blob: Path, fd: int, base: Path) -> None:
    """Make `base` another name of the cached image `blob`, open as `fd`, and note that it is used.

    Raises:
        ImageGoneError: the cache has removed the image, or replaced it by a new download; there is
            no `base`.
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


def mark_used(fd: int) -> None:
    """Note that the image open as `fd` is used now; harmless where this user may not."""
    with contextlib.suppress(OSError):
        os.utime(fd)


def find_users(vm_data_dir: Path) -> dict[FileId, tuple[str, ...]]:
    """Return the VMs whose base each file is, by name; looks at one file per VM.

    For people: that a file is in use at all, its number of links says.
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
