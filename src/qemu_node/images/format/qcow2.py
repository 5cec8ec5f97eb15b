"""The qcow2 header: checking that of an untrusted image, and building that of an overlay.

Owns the format's numbers (docs/interop/qcow2.txt of QEMU) and the decision which images are safe to
hand to QEMU. Pure: bytes in, values out. Reading files is `imagefile`'s, writing them `overlay`'s.

Images as `qemu-img convert` writes them are accepted. An image that names another file is refused,
because QEMU would open that file for the guest (CVE-2024-4467: even `qemu-img info` did).
"""

import os
import struct
from dataclasses import dataclass
from enum import IntEnum

from qemu_node.errors import JobError
from qemu_node.images.errors import UnsafeImageError

MAGIC = b"QFI\xfb"
HEAD_BYTES = 64 << 10
"""How much of a file `check_header` needs: the longest header and extensions that it accepts."""

_V2_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")  # 72 bytes
_V3_FIELDS = struct.Struct(">QQQII")  # bytes 72 to 103
_V3_HEADER_BYTES = 104
_COMPRESSION_TYPE_OFFSET = 104

_INCOMPATIBLE = {0: "dirty", 1: "marked corrupt", 2: "in need of an external data file"}
_INCOMPATIBLE_KNOWN = 1 << 3 | 1 << 4  # compression type, extended L2 entries
_AUTOCLEAR_RAW_DATA_FILE = 1 << 1
_COMPRESSION_TYPES = 2  # zlib, zstd
_EXTENDED_L2_MIN_CLUSTER_BITS = 14

# block/qcow2.h of QEMU 10: MIN_CLUSTER_BITS, MAX_CLUSTER_BITS, QCOW_MAX_L1_SIZE,
# QCOW_MAX_REFTABLE_SIZE, QCOW_MAX_SNAPSHOTS.
_MIN_CLUSTER_BITS = 9
_MAX_CLUSTER_BITS = 21
_MAX_L1_BYTES = 32 << 20
_MAX_REFCOUNT_TABLE_BYTES = 8 << 20
_MAX_SNAPSHOTS = 65536
_MAX_REFCOUNT_ORDER = 6
_MAX_EXTENSIONS = 64
_MAX_BACKING_NAME_BYTES = 1023

_SECTOR_BYTES = 512
_L1_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_ENTRY_COPIED = 1 << 63


class Extension(IntEnum):
    """Header extensions that QEMU knows; any other is refused."""

    END = 0
    BACKING_FORMAT = 0xE2792ACA
    FEATURE_NAMES = 0x6803F857
    BITMAPS = 0x23852875
    ENCRYPTION_HEADER = 0x0537BE77
    DATA_FILE = 0x44415441


_REFUSED_EXTENSIONS = {
    Extension.BACKING_FORMAT: "it names the format of a backing file",
    Extension.ENCRYPTION_HEADER: "it is encrypted",
    Extension.DATA_FILE: "it names an external data file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Header:
    """The fields of an accepted header. Offsets and sizes in bytes, `l1_entries` a count."""

    version: int
    virtual_size_bytes: int
    cluster_bits: int
    l1_offset: int
    l1_entries: int
    incompatible: int
    header_bytes: int

    @property
    def cluster_bytes(self) -> int:
        """The unit of allocation."""
        return 1 << self.cluster_bits

    @property
    def has_extended_l2(self) -> bool:
        """Whether an L2 entry takes 16 bytes instead of 8."""
        return bool(self.incompatible & 1 << 4)


def check_header(
    head: bytes, *, file_size_bytes: int, max_virtual_size_bytes: int | None = None
) -> Qcow2Header:
    """Return the header in `head`, the first HEAD_BYTES of a file, if QEMU may open the image.

    Raises:
        UnsafeImageError: it may not; the message is the reason, without the image's name.
    """
    if len(head) < _V2_HEADER.size or head[:4] != MAGIC:
        raise UnsafeImageError("its qcow2 header is truncated")
    (_, version, backing_offset, backing_bytes, cluster_bits, virtual_size_bytes, crypt_method,
     l1_entries, l1_offset, refcount_offset, refcount_clusters, snapshots, snapshots_offset,
    ) = _V2_HEADER.unpack_from(head)  # fmt: skip
    if version not in (2, 3):
        raise UnsafeImageError(f"its qcow2 version is {version}, not 2 or 3")
    if backing_offset or backing_bytes:
        raise UnsafeImageError("it has a backing file")
    if crypt_method:
        raise UnsafeImageError("it is encrypted")
    if not _MIN_CLUSTER_BITS <= cluster_bits <= _MAX_CLUSTER_BITS:
        raise UnsafeImageError(f"its cluster_bits are {cluster_bits}, not 9 to 21")
    incompatible, header_bytes = _check_features(head, version, cluster_bits)
    header = Qcow2Header(
        version=version,
        virtual_size_bytes=virtual_size_bytes,
        cluster_bits=cluster_bits,
        l1_offset=l1_offset,
        l1_entries=l1_entries,
        incompatible=incompatible,
        header_bytes=header_bytes,
    )
    _check_virtual_size(header, max_virtual_size_bytes)
    _check_table(header, "L1 table", l1_offset, l1_entries * 8, _MAX_L1_BYTES, file_size_bytes)
    _check_table(
        header,
        "refcount table",
        refcount_offset,
        refcount_clusters << cluster_bits,
        _MAX_REFCOUNT_TABLE_BYTES,
        file_size_bytes,
    )
    if snapshots > _MAX_SNAPSHOTS or (snapshots and snapshots_offset >= file_size_bytes):
        raise UnsafeImageError("its table of snapshots lies outside the file")
    _check_extensions(head, header)
    return header


def check_l1_table(table: bytes, header: Qcow2Header, *, file_size_bytes: int) -> None:
    """Check that every L2 table is inside the file; in a truncated copy they are not.

    Raises:
        UnsafeImageError: one does not.
    """
    if len(table) != header.l1_entries * 8:
        raise UnsafeImageError("it is truncated: its L1 table ends early")
    for entry in struct.unpack(f">{header.l1_entries}Q", table):
        offset = entry & _L1_OFFSET_MASK
        if entry & ~(_L1_OFFSET_MASK | _ENTRY_COPIED) or offset % header.cluster_bytes:
            raise UnsafeImageError("its L1 table is damaged")
        if offset + (header.cluster_bytes if offset else 0) > file_size_bytes:
            raise UnsafeImageError("it is truncated: an L2 table lies beyond the end of the file")


def _check_features(head: bytes, version: int, cluster_bits: int) -> tuple[int, int]:
    """Return the incompatible features and the length of the header."""
    if version == 2:
        return 0, _V2_HEADER.size
    if len(head) < _V3_HEADER_BYTES:
        raise UnsafeImageError("its qcow2 header is truncated")
    incompatible, _, autoclear, refcount_order, header_bytes = _V3_FIELDS.unpack_from(
        head, _V2_HEADER.size
    )
    for bit, meaning in _INCOMPATIBLE.items():
        if incompatible & 1 << bit:
            raise UnsafeImageError(f"it is {meaning}")
    if incompatible & ~_INCOMPATIBLE_KNOWN:
        raise UnsafeImageError(f"it has unknown incompatible features {incompatible:#x}")
    if autoclear & _AUTOCLEAR_RAW_DATA_FILE:
        raise UnsafeImageError("it is in need of an external data file")
    if refcount_order > _MAX_REFCOUNT_ORDER:
        raise UnsafeImageError(f"its refcount_order is {refcount_order}, more than 6")
    if header_bytes < _V3_HEADER_BYTES or header_bytes % 8:
        raise UnsafeImageError(f"its header_length is {header_bytes}")
    if header_bytes > min(1 << cluster_bits, len(head)):
        raise UnsafeImageError("its header does not end inside the first cluster")
    compression = head[_COMPRESSION_TYPE_OFFSET] if header_bytes > _V3_HEADER_BYTES else 0
    has_type = bool(incompatible & 1 << 3)
    if compression >= _COMPRESSION_TYPES or (compression > 0) != has_type:
        raise UnsafeImageError(f"its compression type is {compression}")
    if incompatible & 1 << 4 and cluster_bits < _EXTENDED_L2_MIN_CLUSTER_BITS:
        raise UnsafeImageError("its clusters are too small for extended L2 entries")
    return incompatible, header_bytes


def _check_virtual_size(header: Qcow2Header, max_bytes: int | None) -> None:
    size_bytes = header.virtual_size_bytes
    if size_bytes == 0:
        raise UnsafeImageError("its virtual size is 0")
    if size_bytes >= 1 << 63 or (max_bytes is not None and size_bytes > max_bytes):
        limit = (
            f"more than the {max_bytes} allowed" if max_bytes is not None else "which is impossible"
        )
        raise UnsafeImageError(
            f"its virtual size is {size_bytes} bytes, {limit}",
            hint=None if max_bytes is None else "see images.max_size in node.toml",
        )
    entry_bytes = 16 if header.has_extended_l2 else 8
    l2_entries = header.cluster_bytes // entry_bytes
    if header.l1_entries * l2_entries * header.cluster_bytes < size_bytes:
        raise UnsafeImageError("its L1 table is too small for its virtual size")


def _check_table(
    header: Qcow2Header, name: str, offset: int, size_bytes: int, max_bytes: int, file_bytes: int
) -> None:
    """Check that a table that QEMU reads at once is aligned, bounded and inside the file."""
    if size_bytes == 0 or size_bytes > max_bytes:
        raise UnsafeImageError(f"its {name} has {size_bytes} bytes")
    if offset == 0 or offset % header.cluster_bytes:
        raise UnsafeImageError(f"its {name} is not at the start of a cluster")
    if offset + size_bytes > file_bytes:
        raise UnsafeImageError(f"its {name} lies outside the file, which may be truncated")


def _check_extensions(head: bytes, header: Qcow2Header) -> None:
    """Walk the header extensions as QEMU does: up to END or the end of the first cluster."""
    end = min(header.cluster_bytes, len(head))
    offset = header.header_bytes
    for _ in range(_MAX_EXTENSIONS):
        if offset == header.cluster_bytes:
            return
        if offset + 8 > end:
            raise UnsafeImageError("its header extensions do not end inside the first cluster")
        kind, length = struct.unpack_from(">II", head, offset)
        if kind == Extension.END:
            return
        offset += 8 + (length + 7 & ~7)
        if offset > end:
            raise UnsafeImageError("a header extension reaches beyond the first cluster")
        if kind in _REFUSED_EXTENSIONS:
            raise UnsafeImageError(_REFUSED_EXTENSIONS[Extension(kind)])
        if kind not in (Extension.FEATURE_NAMES, Extension.BITMAPS):
            raise UnsafeImageError(f"it has an unknown header extension {kind:#010x}")
    raise UnsafeImageError(f"it has more than {_MAX_EXTENSIONS} header extensions")


_OVERLAY_CLUSTER_BITS = 16
_OVERLAY_CLUSTER_BYTES = 1 << _OVERLAY_CLUSTER_BITS
_OVERLAY_HEADER_BYTES = 112
_OVERLAY_L1_OFFSET = 3 * _OVERLAY_CLUSTER_BYTES
# One L2 table is a cluster of 8-byte entries, each of which maps one cluster.
_BYTES_PER_L1_ENTRY = _OVERLAY_CLUSTER_BYTES // 8 * _OVERLAY_CLUSTER_BYTES


def build_overlay(backing: str, backing_format: str, virtual_size_bytes: int) -> bytes:
    """Return a whole, empty qcow2 file that reads from `backing`.

    Cluster 0 is the header, 1 the refcount table, 2 its only block, from 3 on the L1 table, as
    `qemu-img create` writes them. The virtual size is rounded up to whole sectors.

    Args:
        backing: Absolute path of the backing file; QEMU would read a relative one as a protocol.
        backing_format: QEMU's driver name for it: nothing is ever probed.
        virtual_size_bytes: Size of the disk that the guest sees.

    Raises:
        JobError: the format cannot represent the path or the size.
    """
    name = os.fsencode(backing)
    if not name.startswith(b"/") or len(name) > _MAX_BACKING_NAME_BYTES:
        raise JobError(
            f"the image's path must be absolute and at most {_MAX_BACKING_NAME_BYTES} bytes: "
            f"{backing!r}"
        )
    size_bytes = -(-virtual_size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES
    l1_entries = -(-size_bytes // _BYTES_PER_L1_ENTRY)
    if not 0 < l1_entries * 8 <= _MAX_L1_BYTES:
        raise JobError(f"a disk of {virtual_size_bytes} bytes is not possible")
    driver = backing_format.encode()
    extensions = struct.pack(">II", Extension.BACKING_FORMAT, len(driver))
    extensions += driver.ljust(len(driver) + 7 & ~7, b"\0")
    extensions += struct.pack(">II", Extension.END, 0)
    header = _V2_HEADER.pack(
        MAGIC, 3, _OVERLAY_HEADER_BYTES + len(extensions), len(name), _OVERLAY_CLUSTER_BITS,
        size_bytes, 0, l1_entries, _OVERLAY_L1_OFFSET, _OVERLAY_CLUSTER_BYTES, 1, 0, 0,
    )  # fmt: skip
    header += _V3_FIELDS.pack(0, 0, 0, 4, _OVERLAY_HEADER_BYTES)  # refcounts of 1 << 4 bits
    image = bytearray(_OVERLAY_L1_OFFSET + l1_entries * 8)
    head = header.ljust(_OVERLAY_HEADER_BYTES, b"\0") + extensions + name
    image[: len(head)] = head
    struct.pack_into(">Q", image, _OVERLAY_CLUSTER_BYTES, 2 * _OVERLAY_CLUSTER_BYTES)
    used_clusters = -(-len(image) // _OVERLAY_CLUSTER_BYTES)
    struct.pack_into(
        f">{used_clusters}H", image, 2 * _OVERLAY_CLUSTER_BYTES, *([1] * used_clusters)
    )
    return bytes(image)
