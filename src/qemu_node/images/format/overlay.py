"""A VM's own disk: a qcow2 overlay on a base image that is never written to.

Owns the file's creation. Does not own its layout (`qcow2`) nor the base (`cache`).
"""

from pathlib import Path

from qemu_node.errors import JobError
from qemu_node.host.files import atomic
from qemu_node.images.errors import ImageStorageError, UnsafeImageError
from qemu_node.images.format import imagefile, qcow2
from qemu_node.images.format.imagefile import ImageFormat
from qemu_node.units import format_size

_OVERLAY_MODE = 0o600


def write_overlay(
    path: Path,
    *,
    base: Path,
    base_fd: int,
    base_format: ImageFormat,
    virtual_size_bytes: int,
    owner: tuple[int, int] | None = None,
) -> None:
    """Make `path` an empty overlay on an image; only `owner` may read and write it.

    Args:
        path: The overlay.
        base: The image's path in the overlay. Not opened: a task may have replaced the file.
        base_fd: The image, open for reading.
        base_format: The format that was found when the image was checked.
        virtual_size_bytes: May exceed the image's; the rest reads as zeros.
        owner: User and group.

    Raises:
        JobError: the disk would be smaller than the image.
        UnsafeImageError: the file is not the image that was checked.
        ImageStorageError: it cannot be read.
        HostError: `path` cannot be written; it was removed.
    """
    base_bytes = _virtual_size(base, base_fd, base_format)
    if virtual_size_bytes < base_bytes:
        raise JobError(
            f"a disk of {format_size(virtual_size_bytes)} is smaller than its image, "
            f"which has {format_size(base_bytes)}",
            hint="disk_size can enlarge a disk, not shrink it",
        )
    content = qcow2.build_overlay(str(base), base_format.value, virtual_size_bytes)
    atomic.write_atomic(path, content, mode=_OVERLAY_MODE, owner=owner)


def _virtual_size(base: Path, fd: int, base_format: ImageFormat) -> int:
    try:
        return imagefile.inspect(fd, pinned=base_format).virtual_size_bytes
    except UnsafeImageError as exc:
        raise UnsafeImageError(f"image {base} is refused: {exc}", hint=exc.hint) from exc
    except OSError as exc:
        raise ImageStorageError(f"cannot read the image {base}: {exc.strerror}") from exc
