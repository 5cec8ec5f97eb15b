r"""Terminal output as plain lines of text, fit for a log that somebody shows on a terminal.

Pure. The input is a guest's, hence hostile: a log must not be able to move the reader's cursor, set
the title or the clipboard, answer a query as if typed, or reverse the direction of text. What is
left is printable UTF-8, TAB and newline.

A parser after ECMA-48 and xterm's ctlseqs: CSI, the string sequences OSC, DCS, SOS, PM and APC, in
their 7-bit and their C1 form, and the short ESC sequences, all removed. What moves the cursor to
another line becomes a line break, so that what firmware, boot menus and progress bars draw stays
readable. A sequence that does not end is given up at the end of its line or after `_SEQUENCE_MAX`
characters: it can't swallow the log.
"""

import codecs
import re
from enum import Enum, auto

_SEQUENCE_MAX = 4096

# Dropped alone: C0 but TAB and what moves to another line; DEL; C1 likewise; and U+061C, U+200E,
# U+200F, U+202A to U+202E, U+2066 to U+2069, which change the direction of text (Unicode Standard
# Annex 9).
_DROPPED = (
    "\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x83\x86-\x8c\x8e\x8f\x91-\x97\x99\x9a\x9c"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
)
# Looked at one by one: CR, ESC, other moves to a new line, C1 that begins a sequence.
_ACTIVE = "\x0b-\x0d\x1b\x84\x85\x8d\x90\x98\x9b\x9d-\x9f\u2028\u2029"
_NOTHING = f"[{_DROPPED}]+|\x1b\\[[ -?]{{0,64}}[@-DGI-ceg-~]"
"""What leaves no trace: dropped characters, and whole CSI sequences that keep the cursor's line."""

_DROP = re.compile(_NOTHING)
_PLAIN = re.compile(f"(?:[^{_DROPPED}{_ACTIVE}]+|{_NOTHING})*+")
"""The longest run without anything to decide; possessive, so that its length costs no memory."""

_STRING_AFTER_ESC = frozenset("]PX^_")
_STRING_C1 = frozenset("\x90\x98\x9d\x9e\x9f")
_CSI_C1 = "\x9b"
_ST_C1 = "\x9c"
# CUP, HVP, VPA, CNL, CPL: the cursor goes to another line.
_CSI_LINE_MOVES = frozenset("HfdEF")
# IND, NEL, RI, RIS after ESC; U+0084, U+0085 and U+008D are the first three as C1.
_ESC_LINE_MOVES = frozenset("DEMc")
_LINE_SEPARATORS = frozenset("\x0b\x0c\x84\x85\x8d\u2028\u2029")


class _State(Enum):
    TEXT = auto()
    ESCAPE = auto()
    CSI = auto()
    STRING = auto()
    STRING_ESCAPE = auto()


# What goes on with a sequence, by state: a whole run is passed in one step.
_RUNS = {
    _State.CSI: re.compile("[ -?]+"),
    _State.STRING: re.compile("[^\x07\x0a\x0d\x18\x1a\x1b\x9c]+"),
}


class TerminalFilter:
    """Filters one stream; how the stream is cut into pieces makes no difference to the result."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._state = _State.TEXT
        self._sequence_length = 0
        self._is_line_empty = True
        self._ended_by_cr = False
        self._out: list[str] = []

    def feed(self, data: bytes) -> bytes:
        r"""Return the text that `data` adds to the log. What is not UTF-8 becomes U+FFFD.

        "\r\n" ends a line, as does a run of "\r" with text before it.
        """
        text = self._decoder.decode(data)
        position = 0
        while position < len(text):
            if self._state is _State.TEXT:
                position = self._pass_text(text, position)
            else:
                position = self._skip(text, position)
                if position < len(text):
                    self._in_sequence(text[position])
                    position += 1
        return self._take()

    def break_line(self) -> bytes:
        """Return what ends the current line, if there is one; forget a sequence that is open."""
        self._decoder.reset()
        self._state = _State.TEXT
        self._end_line()
        self._ended_by_cr = False
        return self._take()

    def _take(self) -> bytes:
        result = "".join(self._out).encode()
        self._out.clear()
        return result

    def _pass_text(self, text: str, position: int) -> int:
        """Copy the text at `position`, act on the special character after it, return its end."""
        plain = _PLAIN.match(text, position)
        assert plain is not None  # it matches the empty string
        kept = _DROP.sub("", plain.group())
        if kept:
            if self._ended_by_cr:
                kept = kept.removeprefix("\n")
                self._ended_by_cr = False
            self._out.append(kept)
            self._is_line_empty = kept.endswith("\n") if kept else True
        end = plain.end()
        if end == len(text):
            return end
        self._control(text[end])
        return end + 1

    def _skip(self, text: str, position: int) -> int:
        """Return the end of what at `position` neither ends the open sequence nor is too much."""
        run = _RUNS.get(self._state)
        if run is None:
            return position
        match = run.match(text, position, position + _SEQUENCE_MAX - self._sequence_length)
        end = position if match is None else match.end()
        self._sequence_length += end - position
        return end

    def _control(self, char: str) -> None:
        if char == "\n":
            if not self._ended_by_cr:
                self._out.append("\n")
            self._is_line_empty = True
            self._ended_by_cr = False
        elif char == "\r":
            # At the start of a line it moves nothing; after text the "\n" of a "\r\n" may follow.
            if not self._is_line_empty:
                self._end_line()
                self._ended_by_cr = True
        elif char == "\x1b":
            self._enter(_State.ESCAPE)
        elif char == _CSI_C1:
            self._enter(_State.CSI)
        elif char in _STRING_C1:
            self._enter(_State.STRING)
        elif char in _LINE_SEPARATORS:
            self._end_line()

    def _end_line(self) -> None:
        if not self._is_line_empty:
            self._out.append("\n")
            self._is_line_empty = True

    def _enter(self, state: _State) -> None:
        self._state = state
        self._sequence_length = 0

    def _in_sequence(self, char: str) -> None:
        """Swallow one character of a sequence, or leave it."""
        self._sequence_length += 1
        if char in "\r\n" or self._sequence_length > _SEQUENCE_MAX:
            # No sequence goes over a line's end: here it was broken off.
            self._state = _State.TEXT
            self._control(char)
        elif char in "\x18\x1a":  # CAN and SUB break a sequence off
            self._state = _State.TEXT
        elif self._state is _State.ESCAPE:
            self._after_escape(char)
        elif self._state is _State.CSI:
            self._in_csi(char)
        elif self._state is _State.STRING_ESCAPE:
            # ESC \ ends the string; any other ESC begins a sequence of its own.
            self._state = _State.ESCAPE
            self._after_escape(char)
        elif char == "\x1b":
            self._state = _State.STRING_ESCAPE
        elif char in ("\x07", _ST_C1):  # xterm also ends a string at BEL
            self._state = _State.TEXT

    def _after_escape(self, char: str) -> None:
        if char == "[":
            self._enter(_State.CSI)
        elif char in _STRING_AFTER_ESC:
            self._enter(_State.STRING)
        elif char == "\x1b":
            self._enter(_State.ESCAPE)
        elif not " " <= char <= "/":  # intermediates, as in ESC ( B, are followed by a final
            self._state = _State.TEXT
            if char in _ESC_LINE_MOVES:
                self._end_line()

    def _in_csi(self, char: str) -> None:
        if char == "\x1b":
            self._enter(_State.ESCAPE)
        elif "@" <= char <= "~":
            self._state = _State.TEXT
            if char in _CSI_LINE_MOVES:
                self._end_line()
        elif not " " <= char <= "?":
            # Neither a parameter nor a final: this is no CSI.
            self._state = _State.TEXT
            self._control(char)
