"""Text for people, and text that others have written: pure."""

from collections.abc import Iterable
from typing import Final

import msgspec

PRINTABLE_MAX_CHARS = 400

DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not the JSON that was asked for.

Malformed or of another type; not UTF-8, which msgspec reports as Python does; nested too deep. Seen
with msgspec 0.22 for `\\xff` inside a string and for a hundred thousand `[`."""


def printable(text: str) -> str:
    """Return the first 400 characters of `text`, with `?` for what a terminal may not show."""
    shown = text[:PRINTABLE_MAX_CHARS]
    if shown.isprintable():
        return shown
    return "".join(char if char.isprintable() else "?" for char in shown)


def clean(text: str) -> str:
    """Return `text` with everything that could steer a terminal replaced."""
    return "".join(char if char.isprintable() or char == "\t" else "�" for char in text)


def without_login(address: str) -> str:
    """Return a server's address without user and password, also where it is not a URL."""
    scheme, found, rest = address.partition("://")
    if not found:
        return scheme.rpartition("@")[2]
    return f"{scheme}://{rest.rpartition('@')[2]}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that is most like `word`; None if none is like it."""
    # Only errors need it.
    from difflib import get_close_matches

    by_folded = {name.casefold(): name for name in known}
    found = get_close_matches(word.casefold(), by_folded, n=1)
    return by_folded[found[0]] if found else None
