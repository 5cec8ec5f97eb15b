"""qcow2 images with chosen header fields, valid or not."""

import struct
from dataclasses import dataclass, field

BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
ENCRYPTION_HEADER = 0x0537BE77
DATA_FILE = 0x44415441


@dataclass(kw_only=True)
class Qcow2:
    """A header's fields as they are written; the defaults make an empty, valid image."""

    magic: bytes = b"QFI\xfb"
    version: int = 3
    backing_offset: int = 0
    backing_bytes: int = 0
    cluster_bits: int = 16
    virtual_size_bytes: int = 1 << 30
    crypt_method: int = 0
    l1_entries: int = 2
    l1_offset: int = 3 << 16
    refcount_offset: int = 1 << 16
    refcount_clusters: int = 1
    snapshots: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_bytes: int = 112
    compression: int = 0
    extensions: list[tuple[int, bytes]] = field(default_factory=list)
    ends_extensions: bool = True
    l1: tuple[int, ...] = ()

    def build(self) -> bytes:
        """Return the file: header, refcount table and block, L1 table in a cluster each."""
        header = struct.pack(
            ">4sIQIIQIIQQIIQ", self.magic, self.version, self.backing_offset, self.backing_bytes,
            self.cluster_bits, self.virtual_size_bytes, self.crypt_method, self.l1_entries,
            self.l1_offset, self.refcount_offset, self.refcount_clusters, self.snapshots,
            self.snapshots_offset,
        )  # fmt: skip
        if self.version != 2:
            header += struct.pack(
                ">QQQII", self.incompatible, self.compatible, self.autoclear,
                self.refcount_order, self.header_bytes,
            )  # fmt: skip
            header += bytes([self.compression]).ljust(8, b"\0")
        for kind, data in self.extensions:
            header += struct.pack(">II", kind, len(data)) + data.ljust(len(data) + 7 & ~7, b"\0")
        if self.ends_extensions:
            header += bytes(8)
        image = bytearray(4 << 16)
        image[: len(header)] = header
        struct.pack_into(">Q", image, 1 << 16, 2 << 16)
        struct.pack_into(">4H", image, 2 << 16, 1, 1, 1, 1)
        struct.pack_into(f">{len(self.l1)}Q", image, 3 << 16, *self.l1)
        return bytes(image)
