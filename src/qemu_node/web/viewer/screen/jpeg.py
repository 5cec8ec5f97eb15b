"""From QEMU's picture to a small one: for a thread.

Owns reading what QEMU has written, and the small picture's size, quality and name. Pillow is
imported at the first picture.
"""

import os
import zlib
from dataclasses import dataclass

from qemu_node.web.viewer.screen.ppm import HEADER_MAX_BYTES, PictureError, parse_header
from qemu_node.web.viewer.screen.textscreen import LIFTED, text_box

SIDE_PX = 320
"""About the longer side of a small picture; a smaller screen stays as it is."""
TEXT_SIDE_PX = 480
"""The most of a text console: letters need more pixels than windows."""

_QUALITY = 70
_PIECE_BYTES = 128 << 10
_CUT = "QEMU's picture of the screen is not complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture of a screen."""

    jpeg: bytes
    crc: int
    """Of its pixels."""
    width: int
    height: int
    """Of the screen."""
    is_blank: bool
    """The screen has one colour."""

    @property
    def version(self) -> str:
        """Its name, which changes with the screen."""
        name = f"{self.width}x{self.height}-{self.crc:08x}"
        return f"{name}-blank" if self.is_blank else name


def make_thumbnail(fd: int, before: Thumbnail | None) -> Thumbnail:
    """Return the small picture of the PPM in `fd`; `before` itself if the screen is the same.

    Raises:
        PictureError: it is no such file, or too large.
    """
    size_bytes = os.fstat(fd).st_size
    header = parse_header(os.pread(fd, HEADER_MAX_BYTES, 0), size_bytes)
    crc = _crc(fd, header.begin, header.end)
    if before is not None and (before.crc, before.width, before.height) == (
        crc,
        header.width,
        header.height,
    ):
        return before
    # Not mapped: QEMU can still make it shorter, and that would be a SIGBUS here.
    pixels = os.pread(fd, header.end - header.begin, header.begin)
    if len(pixels) < header.end - header.begin:
        raise PictureError(_CUT)
    jpeg, is_blank = _shrink(pixels, header.width, header.height)
    return Thumbnail(
        jpeg=jpeg, crc=crc, width=header.width, height=header.height, is_blank=is_blank
    )


def _crc(fd: int, begin: int, end: int) -> int:
    """Return the CRC of a part of a file.

    By pieces that the CPU's cache holds: most screens are the same as before, and what is read of
    them is needed for nothing else.

    Raises:
        PictureError: the file is shorter.
    """
    piece = memoryview(bytearray(_PIECE_BYTES))
    crc, at = 0, begin
    while at < end:
        got = os.preadv(fd, [piece[: min(_PIECE_BYTES, end - at)]], at)
        if not got:
            raise PictureError(_CUT)
        crc = zlib.crc32(piece[:got], crc)
        at += got
    return crc


def _shrink(pixels: bytes, width: int, height: int) -> tuple[bytes, bool]:
    """Return a JPEG of the pixels, and whether they all have one colour."""
    import io

    from PIL import Image

    image = Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)
    box = text_box(image)
    if box is not None:
        image = image.crop(box)
        share = TEXT_SIDE_PX / max(image.size)
        if share < 1:
            small = (max(1, round(share * image.width)), max(1, round(share * image.height)))
            image = image.resize(small, Image.Resampling.BOX).point(LIFTED)
    else:
        factor = max(1, round(max(image.size) / SIDE_PX))
        image = image.reduce((min(factor, image.width), min(factor, image.height)))
    is_blank = box is None and image.getcolors(maxcolors=1) is not None
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue(), is_blank
