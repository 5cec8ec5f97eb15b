"""The format of an image file, and whether other programs may open it.

Owns the decision between qcow2 and raw, made once for each image and never again, and the refusal
of every other format. Does not own the rules for a qcow2 header (`qcow2`), other kinds of files
(`foreign`) nor where images are (`store`, `source.localfile`).
"""

import asyncio
import hashlib
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from io import BufferedReader
from pathlib import Path

from qemu_node.images.errors import UnsafeImageError
from qemu_node.images.format import qcow2
from qemu_node.images.format.foreign import HEAD_BYTES, TRAILER_BYTES, foreign
from qemu_node.images.source.checksum import Algorithm, Checksum

IMAGE_MODE = 0o444
"""An image is never written to again; VMs of any user read it."""

_SECTOR_BYTES = 512


class ImageFormat(StrEnum):
    """Formats that are accepted; the value is QEMU's driver name."""

    QCOW2 = "qcow2"
    RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """A format, and the size of the disk that a guest sees."""

    format: ImageFormat
    virtual_size_bytes: int


def inspect(
    fd: int, *, pinned: ImageFormat | None = None, max_virtual_size_bytes: int | None = None
) -> ImageInfo:
    """Return the format and size of the image open as `fd`, after checking that QEMU may open it.

    Args:
        fd: Readable; its position is neither used nor moved.
        pinned: The format found earlier. A raw image stays raw whatever its content.
        max_virtual_size_bytes: Larger disks are refused; None: no limit but the format's.

    Raises:
        UnsafeImageError: it is damaged, hostile or of a format that is not accepted. The message
            is the reason, without the image's name.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise UnsafeImageError("it is not a regular file")
    head = os.pread(fd, qcow2.HEAD_BYTES, 0)
    looks_qcow2 = head.startswith(qcow2.MAGIC)
    if pinned is ImageFormat.QCOW2 and not looks_qcow2:
        raise UnsafeImageError("it was a qcow2 image and is not one any more")
    if looks_qcow2 and pinned is not ImageFormat.RAW:
        header = qcow2.check_header(
            head, file_size_bytes=info.st_size, max_virtual_size_bytes=max_virtual_size_bytes
        )
        qcow2.check_l1_table(
            os.pread(fd, header.l1_entries * 8, header.l1_offset),
            header,
            file_size_bytes=info.st_size,
        )
        return ImageInfo(format=ImageFormat.QCOW2, virtual_size_bytes=header.virtual_size_bytes)
    if pinned is None:
        trailer = os.pread(fd, TRAILER_BYTES, max(info.st_size - TRAILER_BYTES, 0))
        if (other := foreign(head[:HEAD_BYTES], trailer)) is not None:
            raise UnsafeImageError(
                f"it is {other.what}; qcow2 and raw are accepted", hint=other.hint
            )
    _check_raw_size(info.st_size, max_virtual_size_bytes)
    return ImageInfo(format=ImageFormat.RAW, virtual_size_bytes=info.st_size)


async def digest(fd: int, algorithm: Algorithm) -> Checksum:
    """Return the digest of all of the file open as `fd`, whose position is not moved.

    Raises:
        OSError: it cannot be read.
    """
    # Opened again, so that the thread can close it even if its caller has been cancelled.
    file = Path(f"/proc/self/fd/{fd}").open("rb")  # noqa: SIM115, ASYNC230
    return await asyncio.to_thread(_digest, file, algorithm)


def _digest(file: BufferedReader, algorithm: Algorithm) -> Checksum:
    with file:
        return Checksum(algorithm, hashlib.file_digest(file, algorithm.value).hexdigest())


def _check_raw_size(size_bytes: int, max_bytes: int | None) -> None:
    if size_bytes == 0:
        raise UnsafeImageError("it is empty")
    if size_bytes % _SECTOR_BYTES:
        raise UnsafeImageError(
            f"its {size_bytes} bytes are not a whole number of sectors, as in a raw image; "
            "it is truncated or not a disk image"
        )
    if max_bytes is not None and size_bytes > max_bytes:
        raise UnsafeImageError(
            f"it has {size_bytes} bytes, more than the {max_bytes} allowed",
            hint="see images.max_size in node.toml",
        )
