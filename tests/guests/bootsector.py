"""Guests of one disk sector, up in the second that SeaBIOS takes: a screen and a keyboard.

Owns their machine code (16-bit real mode; Intel SDM 2, and QEMU's docs/specs/vbe: the ports of the
Bochs display).
"""

_SECTOR_BYTES = 512
_HIDE_CURSOR = bytes.fromhex("b401 b90020 cd10")
"""A blinking cursor would be a change of the screen."""


def echo() -> bytes:
    """Return a disk whose guest shows every character that is typed."""
    read_and_show = bytes.fromhex("30e4 cd16 b40e cd10 ebf6")
    return _disk(_HIDE_CURSOR + read_and_show)


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
