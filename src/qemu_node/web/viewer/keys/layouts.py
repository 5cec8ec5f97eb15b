"""What the keys of a keyboard layout type: tables of xkeyboard-config, read.

Owns which strokes give a character. The layout is the guest's: a key is a place on the keyboard,
and only the guest knows what it means. The tables are `tools/keylayouts.py`'s.

A dead key gives nothing until the next: then both give an accented letter, or with the space key
the accent alone. X, Linux' console and Windows agree only on the accents ``^``, `````, and ``~``.
Keys with AltGr are used last: a guest that is not a Linux desktop has other characters on many.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

DEFAULT: Final = "us"

_COMBINING: Final = {
    "dead_grave": "\u0300",
    "dead_acute": "\u0301",
    "dead_circumflex": "\u0302",
    "dead_tilde": "\u0303",
    "dead_diaeresis": "\u0308",
    "dead_abovering": "\u030a",
    "dead_caron": "\u030c",
    "dead_cedilla": "\u0327",
    "dead_ogonek": "\u0328",
    "dead_doubleacute": "\u030b",
}
_ALONE: Final = {"dead_grave": "`", "dead_circumflex": "^", "dead_tilde": "~"}
_BASES: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Stroke:
    """One key, with what is held down meanwhile."""

    qcode: str
    """QAPI QKeyCode."""
    shift: bool = False
    altgr: bool = False

    @property
    def keys(self) -> list[tuple[str, bool]]:
        """What goes down and up, in order: nothing stays down."""
        held = ["shift"] * self.shift + ["alt_r"] * self.altgr
        downs = [(key, True) for key in (*held, self.qcode)]
        return downs + [(key, False) for key in (self.qcode, *reversed(held))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A layout and all that can be typed with it."""

    name: str
    title: str
    strokes: Mapping[str, tuple[Stroke, ...]]
    """Character → one stroke, or two with a dead key."""


def names() -> list[str]:
    """Return the names of all layouts."""
    files = resources.files(__package__).joinpath("data").iterdir()
    return sorted(file.name.removesuffix(".tsv") for file in files if file.name.endswith(".tsv"))


@cache
def load(name: str) -> Layout:
    """Return a layout by one of the `names`.

    Raises:
        KeyError: there is none.
    """
    if name not in names():
        raise KeyError(name)
    file = resources.files(__package__).joinpath("data", f"{name}.tsv")
    return parse(name, file.read_text("utf-8"))


def parse(name: str, text: str) -> Layout:
    """Return the layout of a table's text."""
    lines = text.splitlines()
    title = lines[0].removeprefix("# ").partition(". ")[0]
    single, dead = _read(lines[2:])
    found: dict[str, tuple[int, tuple[Stroke, ...]]] = {}
    for rank, keys, char in (*_plain(single), *_accented(single, dead)):
        if char not in found or found[char][0] > rank:
            found[char] = (rank, keys)
    strokes = {char: keys for char, (_, keys) in found.items()}
    strokes["\n"] = (Stroke("ret"),)
    strokes["\t"] = (Stroke("tab"),)
    return Layout(name=name, title=title, strokes=strokes)


_Ranked = dict[str, tuple[int, Stroke]]
"""What a stroke gives → how late it is used, and the stroke."""

_Way = tuple[int, tuple[Stroke, ...], str]
"""How late it is used, strokes, and the character that they give."""

_RANKS: Final = (0, 1, 4, 5)
"""Alone, Shift, AltGr, both. Dead keys come between: 2."""


def _read(lines: Iterable[str]) -> tuple[_Ranked, _Ranked]:
    """Return the characters and the dead keys of a table."""
    single: _Ranked = {}
    dead: _Ranked = {}
    for line in lines:
        qcode, *cells = line.split("\t")
        for level, cell in enumerate(cells):
            if cell == "none":
                continue
            into = dead if cell.startswith("dead_") else single
            given = " " if cell == "space" else cell
            stroke = Stroke(qcode, shift=bool(level & 1), altgr=bool(level & 2))
            if given not in into or into[given][0] > _RANKS[level]:
                into[given] = (_RANKS[level], stroke)
    return single, dead


def _plain(single: _Ranked) -> Iterator[_Way]:
    """Yield what single strokes give."""
    for char, (rank, stroke) in single.items():
        yield rank, (stroke,), char


def _accented(single: _Ranked, dead: _Ranked) -> Iterator[_Way]:
    """Yield what dead keys give with the next key."""
    for name, (rank, stroke) in dead.items():
        if name not in _COMBINING:
            continue
        if name in _ALONE:
            yield 2 + rank, (stroke, single[" "][1]), _ALONE[name]
        for base in _BASES:
            char = unicodedata.normalize("NFC", base + _COMBINING[name])
            if len(char) == 1 and base in single and single[base][0] <= 1:
                yield 2 + rank, (stroke, single[base][1]), char
