r"""The header of a PPM file that a guest may have chosen the size of: pure.

Owns the limits. QEMU writes `P6\n<width> <height>\n255\n` and three bytes a pixel (ui/console.c,
ppm_save). A guest chooses the size of its screen: 8000x4000 is accepted by a VGA with 16 MiB, and
makes 96 MB; and it may have taken over its QEMU.
"""

import re
from dataclasses import dataclass

from qemu_node.errors import NodeError

PIXELS_MAX = 16 << 20
SIDE_MAX = 16384
HEADER_MAX_BYTES = 64

_HEADER = re.compile(rb"P6\s(\d{1,6})\s(\d{1,6})\s255\s")


class PictureError(NodeError):
    """QEMU's picture of the screen is not one that is read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PpmHeader:
    """Where the pixels begin, and how many there are."""

    width: int
    height: int
    begin: int
    """Offset of the first pixel."""

    @property
    def end(self) -> int:
        """Offset behind the last pixel."""
        return self.begin + 3 * self.width * self.height


def parse_header(begin: bytes, size_bytes: int) -> PpmHeader:
    """Return what the header says, if the file has all of its pixels.

    Args:
        begin: The first `HEADER_MAX_BYTES` of the file, or all of it.
        size_bytes: Of the whole file.

    Raises:
        PictureError: it is no such file, or the screen is larger than what is read.
    """
    found = _HEADER.match(begin[:HEADER_MAX_BYTES])
    if found is None:
        raise PictureError("QEMU's picture of the screen is malformed")
    width, height = int(found[1]), int(found[2])
    if not width or not height:
        raise PictureError("the guest's screen has no pixels")
    if width > SIDE_MAX or height > SIDE_MAX or width * height > PIXELS_MAX:
        raise PictureError(
            f"the guest's screen is too large: {width}x{height}",
            hint=f"screens of up to {PIXELS_MAX >> 20} million pixels are shown",
        )
    header = PpmHeader(width=width, height=height, begin=found.end())
    if size_bytes < header.end:
        raise PictureError("QEMU's picture of the screen is not complete")
    return header
