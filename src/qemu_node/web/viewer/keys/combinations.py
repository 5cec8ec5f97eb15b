"""Keys by the names that people use: pure."""

from collections.abc import Sequence
from typing import Final

from qemu_node.text import nearest, printable
from qemu_node.web.http.problems import bad_request

KEYS_MAX: Final = 5

_QCODES: Final = {
    "ctrl": "ctrl",
    "alt": "alt",
    "altgr": "alt_r",
    "shift": "shift",
    "win": "meta_l",
    "menu": "menu",
    "delete": "delete",
    "insert": "insert",
    "home": "home",
    "end": "end",
    "pageup": "pgup",
    "pagedown": "pgdn",
    "up": "up",
    "down": "down",
    "left": "left",
    "right": "right",
    "esc": "esc",
    "tab": "tab",
    "enter": "ret",
    "space": "spc",
    "backspace": "backspace",
    "printscreen": "print",
    "sysrq": "sysrq",
    "pause": "pause",
    "capslock": "caps_lock",
    "numlock": "num_lock",
    "scrolllock": "scroll_lock",
    **{f"f{number}": f"f{number}" for number in range(1, 13)},
    **{char: char for char in "abcdefghijklmnopqrstuvwxyz0123456789"},
}
"""Our names → QAPI QKeyCode. Letters and digits are places on a US keyboard."""


def names() -> list[str]:
    """Return the names of all keys."""
    return list(_QCODES)


def plan_keys(keys: Sequence[str]) -> list[str]:
    """Return the QKeyCodes of keys that are pressed one after the other and held together.

    Raises:
        Problem: there are too many, twice the same, or one that is not known.
    """
    if not 0 < len(keys) <= KEYS_MAX:
        raise bad_request(f"one to {KEYS_MAX} keys, not {len(keys)}")
    if len(set(keys)) != len(keys):
        raise bad_request("a key can be pressed once at a time")
    for key in keys:
        if key not in _QCODES:
            near = nearest(key[:20], _QCODES)
            raise bad_request(
                f"no key {printable(key[:20])!r}", hint=f"did you mean {near}?" if near else None
            )
    return [_QCODES[key] for key in keys]
