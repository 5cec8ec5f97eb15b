"""Which part of a text console a small picture shows."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageStat

from qemu_node.web.viewer.screen.jpeg import _shrink
from qemu_node.web.viewer.screen.textscreen import end_of_text, text_box

GREY = (170, 170, 170)


def console(size: tuple[int, int], rows: int, columns: int, ground: object = 0) -> Image.Image:
    """Return a screen with so many rows of letters, each of 8 by 16 pixels."""
    colour = (0, 0, 0) if ground == 0 else ground
    image = Image.new("RGB", size, colour)  # type: ignore[arg-type]
    draw = ImageDraw.Draw(image)
    for row in range(rows):
        for column in range(columns):
            x, y = 8 * column, 16 * row
            draw.rectangle((x + 1, y + 3, x + 2, y + 12), fill=GREY)
            draw.rectangle((x + 1, y + 11, x + 5, y + 12), fill=GREY)
    return image


@pytest.mark.parametrize(
    ("image", "box"),
    [
        # A few lines at the top of a large screen.
        (console((1280, 800), 8, 70), (0, 0, 640, 400)),
        # Full of lines: the last ones.
        (console((1280, 800), 50, 70), (0, 400, 640, 800)),
        # As wide as the screen.
        (console((1280, 800), 20, 159), (0, 0, 1280, 800)),
        (console((720, 400), 5, 30), (0, 0, 360, 200)),
        # Not a console: no text, a light ground, a window.
        (Image.new("RGB", (720, 400)), None),
        (console((720, 400), 5, 30, (0, 120, 215)), None),
        (Image.linear_gradient("L").resize((1280, 800)).convert("RGB"), None),
    ],
    ids=["top", "full", "wide", "vga", "blank", "blue", "picture"],
)
def test_the_last_lines_are_shown_as_large_as_they_can_be(
    image: Image.Image, box: tuple[int, int, int, int] | None
) -> None:
    assert text_box(image) == box


def test_text_is_lighter_in_the_small_picture_than_its_pixels_alone_would_make_it() -> None:
    image = console((1280, 800), 50, 159)
    jpeg, is_blank = _shrink(image.tobytes(), *image.size)
    assert not is_blank
    with Image.open(io.BytesIO(jpeg)) as small:
        assert max(small.size) <= 480
        plain = image.resize(small.size, Image.Resampling.BOX)
        (light,), (grey,) = (ImageStat.Stat(one.convert("L")).mean for one in (small, plain))
    assert light > 1.3 * grey


@given(
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    right=st.integers(0, 5000),
    bottom=st.integers(0, 5000),
)
def test_the_part_is_within_the_screen(size: tuple[int, int], right: int, bottom: int) -> None:
    left, top, wide, low = end_of_text(size, min(right, size[0]), min(bottom, size[1]))
    assert left == 0
    assert 0 <= top < low <= size[1]
    assert 0 < wide <= size[0]


@given(st.binary(min_size=12, max_size=12), st.sampled_from([(1, 4), (2, 2), (4, 1)]))
def test_a_screen_of_a_few_pixels_is_no_trouble(pixels: bytes, size: tuple[int, int]) -> None:
    assert _shrink(pixels, *size)[0].startswith(b"\xff\xd8")
