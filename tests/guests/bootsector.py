"""Guests of one disk sector, up in the second that SeaBIOS takes: a screen and a keyboard, or a
serial port.

Owns their machine code (16-bit real mode; Intel SDM 2, and QEMU's docs/specs/vbe: the ports of the
Bochs display).
"""

FLOOD_LINES = 240_000

_SECTOR_BYTES = 512
_HIDE_CURSOR = bytes.fromhex("b401 b90020 cd10")
"""A blinking cursor would be a change of the screen."""


def echo() -> bytes:
    """Return a disk whose guest shows every character that is typed."""
    read_and_show = bytes.fromhex("30e4 cd16 b40e cd10 ebf6")
    return _disk(_HIDE_CURSOR + read_and_show)


def serial_echo() -> bytes:
    """Return a disk whose guest sends back every byte of its serial port, after an `R` at its boot.

    An `F` makes it print `FLOOD_LINES` lines as fast as it can: numbers of five digits to the base
    of 16 that begin with `a`. Then a line with a dot.
    """
    assert FLOOD_LINES == 240_000  # 80a90300 below.
    return _disk(
        bytes.fromhex(
            "bafb03b003eeb052e85200b00ae84d00bafd03eca80174f8baf803ec3c467405e83a00ebeb6631ffb90500"
            "6689fe66c1e60c66c1c60489f0240f0461e81e00e2f1b00ae8170066476681ff80a9030072d7b02ee80700"
            "b00ae80200ebb350bafd03eca82074fb58baf803eec3"
        )
    )


def flood() -> bytes:
    """Return what `serial_echo` prints then."""
    digits = bytes.maketrans(b"0123456789abcdef", b"abcdefghijklmnop")
    return b"".join(b"%05x\n" % n for n in range(FLOOD_LINES)).translate(digits)


def huge_screen(width: int, height: int) -> bytes:
    """Return a disk whose guest sets its screen to `width` x `height` with 16 colours."""
    registers = ((4, 0), (1, width), (2, height), (3, 4), (4, 0x41))
    return _disk(b"".join(_write(index, value) for index, value in registers) + b"\xf4\xeb\xfd")


def _write(index: int, value: int) -> bytes:
    """Return code that writes a register of the Bochs display."""
    index_word, value_word = index.to_bytes(2, "little"), value.to_bytes(2, "little")
    return b"\xba\xce\x01\xb8" + index_word + b"\xef\x42\xb8" + value_word + b"\xef"


def _disk(code: bytes) -> bytes:
    return code.ljust(_SECTOR_BYTES - 2, b"\0") + b"\x55\xaa" + bytes(1 << 20)
