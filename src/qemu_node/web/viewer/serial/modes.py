"""How a guest has set the terminal on its serial port: pure.

Owns the settings that outlive what was printed: without them a terminal that is opened later pastes
several lines as several commands, or sends the wrong codes for the cursor keys. Sources: xterm's
ctlseqs (DECSET, DECKPAM, RIS, DECSTR).
"""

import re

_SWITCHES = {1: False, 6: False, 7: True, 25: True, 1000: False, 1002: False, 1003: False,
             1004: False, 1005: False, 1006: False, 1015: False, 2004: False}  # fmt: skip
"""DECSET modes that are kept, and what they are in a new terminal: cursor keys, origin, wrapping,
cursor, the mouse, focus, bracketed paste."""

_SCREENS = (47, 1047, 1049)
"""The other screen. All three switch the same one."""

_KEYPAD, _SCREEN = "keypad", "screen"
_PARAMETERS_MAX = 64
SEQUENCE_MAX_BYTES = _PARAMETERS_MAX + 4

_SEQUENCE = re.compile(rb"\x1b(?:\[\?([0-9;]{1,%d})([hl])|(\[!p)|([=>c]))" % _PARAMETERS_MAX)
_OPEN = re.compile(rb"\x1b(?:\[(?:!|\?[0-9;]{0,%d})?)?\Z" % _PARAMETERS_MAX)


class Modes:
    """Follows one stream, however it is cut into pieces."""

    def __init__(self) -> None:
        self._set: dict[int | str, bool] = {}
        """What is not as in a new terminal."""
        self._unread = b""

    def feed(self, data: bytes) -> None:
        """Note what `data` switches."""
        unread = self._unread + data
        for found in _SEQUENCE.finditer(unread):
            numbers, way, soft_reset, single = found.groups()
            if numbers is not None:
                for number in numbers.split(b";"):
                    self._switch(int(number or b"0"), is_on=way == b"h")
            elif soft_reset is not None:
                self._soft_reset()
            elif single == b"c":
                self._set.clear()
            else:
                self._note(_KEYPAD, is_on=single == b"=", default=False)
        rest = _OPEN.search(unread, max(len(unread) - SEQUENCE_MAX_BYTES, 0))
        self._unread = b"" if rest is None else rest[0]

    def sequence(self) -> bytes:
        """Return what sets a new terminal like this one."""
        parts = [b"\x1b[?1047h"] if self._set.get(_SCREEN) else []
        parts += [
            b"\x1b[?%d%c" % (mode, b"h" if is_on else b"l")
            for mode, is_on in sorted((m, on) for m, on in self._set.items() if isinstance(m, int))
        ]
        if self._set.get(_KEYPAD):
            parts.append(b"\x1b=")
        return b"".join(parts)

    def _switch(self, mode: int, *, is_on: bool) -> None:
        if mode in _SCREENS:
            self._note(_SCREEN, is_on=is_on, default=False)
        elif mode in _SWITCHES:
            self._note(mode, is_on=is_on, default=_SWITCHES[mode])

    def _note(self, mode: int | str, *, is_on: bool, default: bool) -> None:
        if is_on == default:
            self._set.pop(mode, None)
        else:
            self._set[mode] = is_on

    def _soft_reset(self) -> None:
        # DECSTR shows the cursor and ends application keys and origin mode; not the others.
        for mode in (1, 6, 7, 25, _KEYPAD):
            self._set.pop(mode, None)
