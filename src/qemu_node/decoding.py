"""What msgspec raises for bytes that are not the JSON that was asked for."""

from typing import Final

import msgspec

DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Malformed or of another type; not UTF-8, which msgspec reports as Python does; nested too deep.

Seen with msgspec 0.22 for `\\xff` inside a string and for a hundred thousand `[`."""
