"""What kind of image a file is, and whether it may be opened by anything but this module.

Owns the decision between qcow2 and raw, made once per image and pinned from then on, and the
refusal of every other format. Does not own the qcow2 header's rules (`qcow2`), what else a file may
be (`foreign`) nor where images are (`store`, `localfile`).
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
"""Nobody writes to an image again; VMs of any user read it."""

_SECTOR_BYTES = 512


class ImageFormat(StrEnum):
    """Formats that are accepted; the value is QEMU's driver name."""

    QCOW2 = "qcow2"
    RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """A format and the size of the disk that a guest would see."""

    format: ImageFormat
    virtual_size_bytes: int


def inspect(
    fd: int, *, pinned: ImageFormat | None = None, max_virtual_size_bytes: int | None = None
) -> ImageInfo:
    """Return what the image open as `fd` is, having checked that QEMU may open it.

    Args:
        fd: Readable; its position is neither used nor moved.
        pinned: The format found earlier. A raw image stays raw whatever is written into it.
        max_virtual_size_bytes: Larger disks are refused; None: no limit but the format's.

    Raises:
        UnsafeImageError: it is damaged, hostile or of a kind that is not accepted. The message is
            the reason, to follow the image's name.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise UnsafeImageError("it is not a regular file")
    head = os.pread(fd, qcow2.HEAD_BYTES, 0)
    looks_qcow2 = head.startswith(qcow2.MAGIC)
    if pinned is ImageFormat.QCOW2 and not looks_qcow2:
        raise UnsafeImageError("it was a qcow2 image and is none any more")
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
                f"it is {other.what}; accepted are qcow2 and raw", hint=other.hint
            )
    _check_raw_size(info.st_size, max_virtual_size_bytes)
    return ImageInfo(format=ImageFormat.RAW, virtual_size_bytes=info.st_size)


async def digest(fd: int, algorithm: Algorithm) -> Checksum:
    """Return the digest of all of the file open as `fd`, whose position is not moved.

    Raises:
        OSError: it cannot be read.
    """
    # A description of its own, which the thread closes even where its caller has been cancelled.
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
            f"its {size_bytes} bytes are no whole number of sectors, as a raw image has; "
            "it is truncated or no disk image"
        )
    if max_bytes is not None and size_bytes > max_bytes:
        raise UnsafeImageError(
            f"it takes {size_bytes} bytes, more than the {max_bytes} allowed",
            hint="see images.max_size in node.toml",
        )
