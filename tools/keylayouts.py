"""Writes keyboard layouts into src/qemu_node/web/viewer/keys/data, from xkeyboard-config.

    python tools/keylayouts.py --release 2.35.1

It needs libxkbcommon (apt install libxkbcommon0 xkb-data). A line of a table is a key and what it
gives alone, with Shift, with AltGr and with both: a character, `dead_…`, or `none` for nothing that
a paste can use.
"""

import argparse
import ctypes
from pathlib import Path

DATA = Path(__file__).parents[1] / "src/qemu_node/web/viewer/keys/data"

LAYOUTS = {
    "at": "German (Austria)",
    "be": "Belgian",
    "ca": "French (Canada)",
    "ch": "German (Switzerland)",
    "ch-fr": "French (Switzerland)",
    "cz": "Czech",
    "de": "German",
    "dk": "Danish",
    "ee": "Estonian",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "gb": "English (UK)",
    "hu": "Hungarian",
    "it": "Italian",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "se": "Swedish",
    "us": "English (US)",
}
"""Our names, which are xkeyboard-config's `layout` or `layout-variant`, and what a person reads."""

_ROWS = {
    "TLDE": "grave_accent",
    **{f"AE{number:02}": str(number % 10) for number in range(1, 11)},
    "AE11": "minus",
    "AE12": "equal",
    **{f"AD{number:02}": key for number, key in enumerate("qwertyuiop", 1)},
    "AD11": "bracket_left",
    "AD12": "bracket_right",
    **{f"AC{number:02}": key for number, key in enumerate("asdfghjkl", 1)},
    "AC10": "semicolon",
    "AC11": "apostrophe",
    "BKSL": "backslash",
    "LSGT": "less",
    **{f"AB{number:02}": key for number, key in enumerate("zxcvbnm", 1)},
    "AB08": "comma",
    "AB09": "dot",
    "AB10": "slash",
    "SPCE": "spc",
}
"""XKB's name of each key that types something, and QEMU's (QAPI QKeyCode)."""

_HEAD = """\
# {title}. Made by tools/keylayouts.py from xkeyboard-config {release}, whose licence is in COPYING.
# key, alone, Shift, AltGr, Shift+AltGr
"""


class _Names(ctypes.Structure):
    """struct xkb_rule_names of xkbcommon.h."""

    _fields_ = [
        (name, ctypes.c_char_p) for name in ("rules", "model", "layout", "variant", "options")
    ]


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libxkbcommon.so.0")
    pointer, word = ctypes.c_void_p, ctypes.c_uint32
    for name, result, arguments in (
        ("xkb_context_new", pointer, [ctypes.c_int]),
        ("xkb_keymap_new_from_names", pointer, [pointer, ctypes.POINTER(_Names), ctypes.c_int]),
        ("xkb_keymap_key_by_name", word, [pointer, ctypes.c_char_p]),
        ("xkb_keymap_mod_get_index", word, [pointer, ctypes.c_char_p]),
        ("xkb_state_new", pointer, [pointer]),
        ("xkb_state_update_mask", ctypes.c_int, [pointer, word, word, word, word, word, word]),
        ("xkb_state_key_get_one_sym", word, [pointer, word]),
        ("xkb_keysym_get_name", ctypes.c_int, [word, ctypes.c_char_p, ctypes.c_size_t]),
        ("xkb_keysym_to_utf32", word, [word]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def table(name: str) -> list[str]:
    """Return the lines of one layout.

    Raises:
        SystemExit: xkeyboard-config does not have it.
    """
    xkb = _library()
    layout, _, variant = name.partition("-")
    names = _Names(b"evdev", b"pc105", layout.encode(), variant.encode(), None)
    keymap = xkb.xkb_keymap_new_from_names(xkb.xkb_context_new(0), ctypes.byref(names), 0)
    if not keymap:
        raise SystemExit(f"xkeyboard-config has no layout {name}")
    state = xkb.xkb_state_new(keymap)
    # Mod5 is what XKB's level3(ralt_switch) sets.
    shift, altgr = (
        1 << xkb.xkb_keymap_mod_get_index(keymap, modifier) for modifier in (b"Shift", b"Mod5")
    )
    lines = []
    for position, qcode in _ROWS.items():
        key = xkb.xkb_keymap_key_by_name(keymap, position.encode())
        cells = []
        for modifiers in (0, shift, altgr, shift | altgr):
            xkb.xkb_state_update_mask(state, modifiers, 0, 0, 0, 0, 0)
            cells.append(_cell(xkb, xkb.xkb_state_key_get_one_sym(state, key)))
        lines.append("\t".join([qcode, *cells]))
    return lines


def _cell(xkb: ctypes.CDLL, keysym: int) -> str:
    name = ctypes.create_string_buffer(64)
    xkb.xkb_keysym_get_name(keysym, name, len(name))
    text = name.value.decode()
    if text.startswith("dead_"):
        return text
    if text == "space":
        return text
    char = chr(xkb.xkb_keysym_to_utf32(keysym))
    return char if char.isprintable() and not char.isspace() else "none"


def main() -> None:
    """Write all tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", required=True, help="of the installed xkeyboard-config")
    release = parser.parse_args().release
    for name, title in LAYOUTS.items():
        head = _HEAD.format(title=title, release=release)
        (DATA / f"{name}.tsv").write_text(head + "\n".join(table(name)) + "\n")


if __name__ == "__main__":
    main()
