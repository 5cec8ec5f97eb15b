"""Compressed images, unpacked as they arrive: gzip, xz and zstd, recognised by their first bytes.

Owns the stream of unpacked bytes with limits on memory and size. Does not own where they are
written (`store.partialfile`) nor what they are (`imagefile`). The input is hostile: a few bytes
may unpack to terabytes, so only one piece is unpacked at a time.

A file may have several members one after the other, as `pigz`, `pixz` and `cat` make them; after
the last one there may be NULs as padding and, except with gzip, nothing else.

zstd comes from `backports.zstd`, the standard library's module of Python 3.14 for older ones.
"""

import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Protocol

from qemu_node.images.errors import UnsafeImageError
from qemu_node.units import MIB, format_size

PIECE_BYTES = MIB
MAGIC_BYTES = 6
"""How many of the first bytes tell how a file is compressed."""

# `xz -9` needs 65 MiB to unpack (man xz), `zstd --long` 128 MiB (its default limit as well). Two
# such downloads at once are still small compared with a VM.
_XZ_MEMORY_BYTES = 130 * MIB
_ZSTD_WINDOW_LOG = 27

# Each member costs microseconds, however small it is, and a skipped zstd frame has 8 bytes: a MiB
# of them would use a CPU for a second. Compressors make members of 64 KiB and more.
_MEMBERS_FREE = 1024
_MEMBER_MIN_BYTES = 4096
_STEP_MIN_BYTES = 1024
_NO_PADDING = re.compile(rb"[^\0]")
_GZIP_FIRST = 0x1F
_NO_GZIP = "incorrect header check"  # zlib's words where no member begins (inflate.c)


class Packing(StrEnum):
    """How a file is compressed; the value is the program's name."""

    GZIP = "gzip"
    XZ = "xz"
    ZSTD = "zstd"


def packing_of(head: bytes) -> Packing | None:
    """Return how the file that begins with `head` is compressed; None if it is not."""
    if head.startswith(b"\x1f\x8b"):
        return Packing.GZIP
    if head.startswith(b"\xfd7zXZ\0"):
        return Packing.XZ
    # RFC 8878, 3.1: a frame, or one to be skipped, with which parallel compressors begin.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (
        head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F
    ):
        return Packing.ZSTD
    return None


class _Decoder(Protocol):
    """One member being unpacked, with the interface of `lzma` and `compression.zstd`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: memoryview, max_length: int) -> bytes: ...


class _GzipDecoder:
    """zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)  # 16 + 15: gzip's header and trailer only
        self._may_hold_more = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.eof and not self._may_hold_more

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: memoryview, max_length: int) -> bytes:
        tail = self._zlib.unconsumed_tail
        piece = self._zlib.decompress(tail + data if tail else data, max_length)
        # A full piece may have left output inside although all the input was taken.
        self._may_hold_more = bool(self._zlib.unconsumed_tail) or len(piece) == max_length
        return piece


class Unpacker:
    """Unpacks one file, given in order and in parts of any size. Not to be used after an error."""

    def __init__(self, packing: Packing, *, max_bytes: int) -> None:
        """Unpack a file that was compressed with `packing`, to at most `max_bytes`."""
        self.packing = packing
        self._max_bytes = max_bytes
        self._make, self._errors = _decoder_of(packing)
        self._decoder: _Decoder | None = None
        self._size_bytes = 0
        self._members = 0
        self._step_bytes = _STEP_MIN_BYTES
        self._is_padded = False
        self._begin_member()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the unpacked bytes of `data`, in pieces of at most 1 MiB.

        Raises:
            UnsafeImageError: it is damaged, unpacks to more than allowed, needs too much memory, or
                there are bytes after its end. The message is without the image's name.
        """
        view = memoryview(data)
        at = 0
        while at < len(data) or (self._decoder is not None and not self._decoder.needs_input):
            if self._decoder is None:
                at = self._next_member(data, at)
                if self._decoder is None:
                    return
            end = min(at + self._step_bytes, len(data)) if self._decoder.needs_input else at
            try:
                piece = self._decoder.decompress(view[at:end], PIECE_BYTES)
            except self._errors as exc:
                if self._members > 1 and str(exc).endswith(_NO_GZIP):
                    self._decoder, self._is_padded = None, True
                    return
                raise self._damaged(exc) from exc
            at = end
            self._size_bytes += len(piece)
            if self._size_bytes > self._max_bytes:
                raise UnsafeImageError(
                    f"it unpacks to more than the {format_size(self._max_bytes)} allowed",
                    hint="see images.max_size in node.toml",
                )
            if piece:
                yield piece
            self._step_bytes = min(2 * self._step_bytes, PIECE_BYTES)
            if self._decoder.eof:
                at -= len(self._decoder.unused_data)
                self._decoder = None

    def finish(self) -> None:
        """Finish: nothing follows.

        Raises:
            UnsafeImageError: the end is missing.
        """
        if self._decoder is not None:
            raise UnsafeImageError(f"it is {self.packing} data that is truncated")

    def _next_member(self, data: bytes, at: int) -> int:
        """Return where `data` continues after padding; begin a member if it does."""
        match = _NO_PADDING.search(data, at)
        start = len(data) if match is None else match.start()
        self._is_padded = self._is_padded or start > at
        if match is not None:
            if self.packing is Packing.GZIP and (self._is_padded or data[start] != _GZIP_FIRST):
                # Ignored, as gzip(1) does: images of OpenWrt end with metadata.
                self._is_padded = True
                return len(data)
            if self._is_padded and self.packing is not Packing.XZ:
                raise UnsafeImageError(
                    f"there are more bytes after the end of its {self.packing} data"
                )
            self._is_padded = False
            self._begin_member()
        return start

    def _begin_member(self) -> None:
        self._members += 1
        if self._members > _MEMBERS_FREE + self._size_bytes // _MEMBER_MIN_BYTES:
            raise UnsafeImageError(
                f"its {self.packing} data consist of {self._members} almost empty parts",
                hint="compress it again, as one file",
            )
        # A decoder copies the bytes after a member's end: give a short member little at a time.
        self._step_bytes = _STEP_MIN_BYTES
        self._decoder = self._make()

    def _damaged(self, exc: Exception) -> UnsafeImageError:
        if isinstance(exc, lzma.LZMAError) and "memory" in str(exc).lower():
            return UnsafeImageError(
                f"unpacking it needs more than {format_size(_XZ_MEMORY_BYTES)} of memory",
                hint="compress it with xz -9 or less",
            )
        if self.packing is Packing.ZSTD and "memory" in str(exc).lower():
            return UnsafeImageError(
                f"unpacking it needs a window of more than {1 << (_ZSTD_WINDOW_LOG - 20)} MiB",
                hint="compress it with zstd --long=27 or less",
            )
        return UnsafeImageError(f"its {self.packing} data are damaged, or more bytes follow them")


def _decoder_of(packing: Packing) -> tuple[Callable[[], _Decoder], tuple[type[Exception], ...]]:
    """Return the constructor of a decoder, and its exceptions for damaged data."""
    match packing:
        case Packing.GZIP:
            return _GzipDecoder, (zlib.error,)
        case Packing.XZ:
            return (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)), (
                lzma.LZMAError,
            )
        case Packing.ZSTD:
            from backports import zstd

            options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
            return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)
