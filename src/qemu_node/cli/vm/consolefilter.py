"""A guest's serial output made fit for an operator's terminal: pure.

Owns leaving out the control strings with which a guest could act on the terminal's owner instead of
on its own screen: OSC (the clipboard by OSC 52, the window's title), DCS, SOS, PM and APC. What
draws (CSI, colours, cursor) passes, so that a login, an editor or a boot menu look as they should.
Does not own logs, which take no escapes at all (`vm.output.textfilter`).

Grammar: ECMA-48 and the DEC parser of vt100.net/emu/dec_ansi_parser. The eight-bit forms of the
introducers are code points U+0090 … U+009F here, two bytes in UTF-8, as terminals take them.
"""

from enum import Enum, auto

_ESC, _BEL, _CAN, _SUB, _LF, _C1_LEAD = 0x1B, 0x07, 0x18, 0x1A, 0x0A, 0xC2
_SPACE, _BACKSLASH, _DEL = 0x20, 0x5C, 0x7F
_CONTINUATION = range(0x80, 0xC0)
_INTRODUCERS = frozenset(b"]PX^_")
_C1_INTRODUCERS = frozenset(b"\x90\x98\x9d\x9e\x9f")
_C1_ST = 0x9C
_STRING_MAX_BYTES = 4096
"""How much a string that the guest never ends may hide of what follows."""


class _State(Enum):
    GROUND = auto()
    ESCAPE = auto()
    C1 = auto()
    STRING = auto()
    STRING_ESCAPE = auto()
    STRING_C1 = auto()


class ConsoleFilter:
    """Filters one stream; how the stream is cut into pieces makes no difference to the result."""

    def __init__(self) -> None:
        self._state = _State.GROUND
        self._string_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Return what of `data`, and of what was held back before it, may be shown."""
        if self._state is _State.GROUND and _ESC not in data and _C1_LEAD not in data:
            return data
        shown = bytearray()
        for byte in data:
            self._step(byte, shown)
        return bytes(shown)

    def _step(self, byte: int, shown: bytearray) -> None:
        match self._state:
            case _State.GROUND:
                self._ground(byte, shown)
            case _State.ESCAPE:
                self._escape(byte, shown)
            case _State.C1:
                self._c1(byte, shown)
            case _:
                self._string(byte, shown)

    def _ground(self, byte: int, shown: bytearray) -> None:
        """Take a byte outside strings; the beginning of what may be one is held back."""
        if byte == _ESC:
            self._state = _State.ESCAPE
        elif byte == _C1_LEAD:
            self._state = _State.C1
        else:
            self._state = _State.GROUND
            shown.append(byte)

    def _escape(self, byte: int, shown: bytearray) -> None:
        """Take what follows an ESC, which is shown only together with what it introduces.

        A terminal goes on waiting for that over control characters, which it obeys meanwhile.
        """
        if byte in _INTRODUCERS:
            self._begin_string()
        elif byte == _DEL or (byte < _SPACE and byte not in (_ESC, _CAN, _SUB)):
            shown.append(byte)
        elif _SPACE <= byte < _DEL:
            shown.append(_ESC)
            self._ground(byte, shown)
        else:
            self._ground(byte, shown)

    def _c1(self, byte: int, shown: bytearray) -> None:
        """Take what follows the first byte of what may be an eight-bit control.

        Alone that is no character. Shown it would make a control with whatever follows a string
        that is left out.
        """
        if byte in _C1_INTRODUCERS:
            self._begin_string()
            return
        if byte in _CONTINUATION:
            shown.append(_C1_LEAD)
        self._ground(byte, shown)

    def _begin_string(self) -> None:
        self._state = _State.STRING
        self._string_bytes = 0

    def _is_end(self, byte: int) -> bool:
        """Tell whether `byte` completes what ends a string."""
        if self._state is _State.STRING_ESCAPE:
            return byte == _BACKSLASH
        if self._state is _State.STRING_C1 and byte == _C1_ST:
            return True
        return byte in (_BEL, _CAN, _SUB)

    def _string(self, byte: int, shown: bytearray) -> None:
        """Take a byte of a string that is left out."""
        self._string_bytes += 1
        if self._state is _State.STRING_ESCAPE and byte != _BACKSLASH:
            # Not ST: an escape sequence of its own, which ends the string as well.
            self._state = _State.ESCAPE
            self._step(byte, shown)
        elif self._is_end(byte):
            self._state = _State.GROUND
        elif byte == _LF or self._string_bytes >= _STRING_MAX_BYTES:
            self._state = _State.GROUND
            shown.append(byte)
        elif byte == _ESC:
            self._state = _State.STRING_ESCAPE
        elif byte == _C1_LEAD:
            self._state = _State.STRING_C1
        else:
            self._state = _State.STRING
