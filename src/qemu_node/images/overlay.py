"""A VM's own disk: a qcow2 overlay on a base image that nobody writes to.

Owns the file's creation. Does not own its layout (`qcow2`) nor the base (`cache`).
"""

import os
from pathlib import Path

from qemu_node.errors import JobError
from qemu_node.host import files
from qemu_node.images import imagefile, qcow2
from qemu_node.images.errors import ImageStorageError, UnsafeImageError
from qemu_node.images.imagefile import ImageFormat
from qemu_node.units import format_size

_OVERLAY_MODE = 0o600


def write_overlay(
    path: Path,
    *,
    base: Path,
    base_format: ImageFormat,
    virtual_size_bytes: int,
    owner: tuple[int, int] | None = None,
) -> None:
    """Make `path` an empty overlay on `base`, readable and writable by `owner` alone.

    `virtual_size_bytes` may exceed the base's; what lies beyond it reads as zeros.

    Raises:
        JobError: the disk would be smaller than the image, whose end the guest would lose.
        UnsafeImageError: `base` is not the image that it was.
        ImageStorageError: `base` is gone or cannot be read.
        HostError: `path` cannot be written; nothing is left of it.
    """
    base_bytes = _virtual_size(base, base_format)
    if virtual_size_bytes < base_bytes:
        raise JobError(
            f"a disk of {format_size(virtual_size_bytes)} is smaller than its image, "
            f"which has {format_size(base_bytes)}",
            hint="disk_size grows a disk and never shrinks it",
        )
    content = qcow2.build_overlay(str(base), base_format.value, virtual_size_bytes)
    files.write_atomic(path, content, mode=_OVERLAY_MODE, owner=owner)


def _virtual_size(base: Path, base_format: ImageFormat) -> int:
    try:
        fd = os.open(base, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise ImageStorageError(f"cannot open the image {base}: {exc.strerror}") from exc
    try:
        return imagefile.inspect(fd, pinned=base_format).virtual_size_bytes
    except UnsafeImageError as exc:
        raise UnsafeImageError(f"image {base} is refused: {exc}", hint=exc.hint) from exc
    finally:
        os.close(fd)
