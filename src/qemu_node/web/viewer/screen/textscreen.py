"""What a small picture of a text console shows: its last lines, as large as they can be.

Owns how a text console is recognised, and which part of it is taken. A console of 160 columns that
is made as small as a card is a dark rectangle: its letters have one pixel each, and most screens
have text in a corner alone. Pillow is the caller's to import.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_STEP_PX = 3
"""Every third pixel of every third row is looked at: a letter has one of them at least."""
_COLOURS_MAX = 24
"""A text console has 16 colours, and no shades between them."""
_GROUND_SHARE = 0.7
_DARK_MAX = 48
_PAD_PX = 16
_WIDTH_MIN_PX = 320
_SHARES = (1 / 4, 1 / 3, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Of the screen's width. Steps, so that a picture does not jump with every line."""

_LIFT = 0.55
"""Exponent: what a light letter on a dark ground loses when its pixels become one."""
LIFTED = [round(255 * (level / 255) ** _LIFT) for level in range(256)] * 3
"""For `Image.point` of a picture that has become smaller."""

Box = tuple[int, int, int, int]


def text_box(image: "Image") -> Box | None:
    """Return the part of an RGB text console that is shown; None if it is something else."""
    width, height = image.size
    # `reduce` would make shades; NEAREST (0) takes pixels as they are.
    sample = image.resize((max(1, width // _STEP_PX), max(1, height // _STEP_PX)), 0)
    colours = sample.getcolors(_COLOURS_MAX)
    if colours is None:
        return None
    count, ground = max(colours, key=lambda counted: counted[0])
    assert isinstance(ground, tuple)
    if count < _GROUND_SHARE * sample.width * sample.height or max(ground) > _DARK_MAX:
        return None
    # Bands that are the ground become 0, and the box is that of all else.
    marks = sample.point(
        [0 if level == of_band else 255 for of_band in ground for level in range(256)]
    )
    found = marks.getbbox()
    if found is None:
        return None
    _, _, right, bottom = found
    return end_of_text((width, height), right * _STEP_PX, bottom * _STEP_PX)


def end_of_text(size: tuple[int, int], right: int, bottom: int) -> Box:
    """Return the part with the last lines of text that ends at `right` and `bottom`: pure.

    It has the shape of the screen, and all columns of the text.
    """
    width, height = size
    for share in _SHARES:
        wide, high = round(share * width), max(1, round(share * height))
        if wide >= _WIDTH_MIN_PX and wide >= right + _PAD_PX:
            top = min(max(bottom + _PAD_PX - high, 0), height - high)
            return (0, top, wide, top + high)
    return (0, 0, width, height)
