"""Small pictures of what QEMU has written."""

import io
import os
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from qemu_node.web.viewer.screen.jpeg import make_thumbnail
from qemu_node.web.viewer.screen.ppm import PictureError


@pytest.fixture
def written() -> Iterator[Callable[[bytes], int]]:
    fds = []

    def write(data: bytes) -> int:
        fd = os.memfd_create("test")
        os.write(fd, data)
        fds.append(fd)
        return fd

    yield write
    for fd in fds:
        os.close(fd)


def ppm(width: int, height: int, pixels: bytes | None = None) -> bytes:
    body = os.urandom(3 * width * height) if pixels is None else pixels * (width * height)
    return f"P6\n{width} {height}\n255\n".encode() + body


@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((1280, 800), (320, 200)),
        ((1920, 1080), (320, 180)),
        ((720, 400), (360, 200)),
        ((1024, 768), (342, 256)),
        ((8, 1), (8, 1)),
        ((16384, 2), (322, 1)),
        ((2, 16384), (1, 322)),
    ],
)
def test_a_picture_is_about_320_pixels_wide(
    written: Callable[[bytes], int], size: tuple[int, int], small: tuple[int, int]
) -> None:
    made = make_thumbnail(written(ppm(*size)), None)
    with Image.open(io.BytesIO(made.jpeg)) as image:
        assert image.format == "JPEG"
        assert image.size == small
    assert (made.width, made.height) == size
    assert not made.is_blank


def test_an_unchanged_screen_is_the_same_picture(written: Callable[[bytes], int]) -> None:
    data = ppm(640, 480)
    first = make_thumbnail(written(data), None)
    assert make_thumbnail(written(data), first) is first
    changed = make_thumbnail(written(data[:-1] + bytes([data[-1] ^ 1])), first)
    assert changed.version != first.version


def test_a_screen_of_one_colour_is_called_blank(written: Callable[[bytes], int]) -> None:
    blank = make_thumbnail(written(ppm(720, 400, b"\0\0\0")), None)
    assert blank.version == f"720x400-{blank.crc:08x}-blank"


# The names do not hold the random bytes: two workers must find the same ones.
@pytest.mark.parametrize(
    "data",
    [b"", b"junk", ppm(640, 480)[:-1], ppm(8, 1)[:-1]],
    ids=["empty", "junk", "cut", "cut-small"],
)
def test_what_is_no_picture_is_refused(written: Callable[[bytes], int], data: bytes) -> None:
    with pytest.raises(PictureError):
        make_thumbnail(written(data), None)


def test_a_huge_screen_is_refused_unread(written: Callable[[bytes], int]) -> None:
    fd = written(b"P6\n8000 4000\n255\n")
    os.ftruncate(fd, 100 << 20)
    with pytest.raises(PictureError, match="8000x4000"):
        make_thumbnail(fd, None)
