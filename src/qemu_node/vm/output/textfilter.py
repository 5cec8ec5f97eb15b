r"""Terminal output as plain lines of text, fit for a log that somebody shows on a terminal.

Pure. The input is a guest's, hence hostile: a log must not be able to move the reader's cursor, set
the title or the clipboard, answer a query as if typed, or reverse the direction of text. What is
left is printable UTF-8, TAB and newline.

The grammar is that of ECMA-48 and xterm's ctlseqs: CSI, the string sequences OSC, DCS, SOS, PM and
APC, in their 7-bit and their C1 form, and the short ESC sequences, all removed. What moves the
cursor to another line becomes a line break, so that what firmware, boot menus and progress bars
draw stays readable. A sequence that does not end is given up at the end of its line or after
`_SEQUENCE_MAX` characters: it can't swallow the log.

All of it is done by a fixed number of passes of the regular expression engine, in C: a guest that
prints nothing but sequences costs little more than one that prints text.
"""

import codecs
import re

_SEQUENCE_MAX = 4096

# C0 but TAB and what moves to another line; DEL; C1 likewise; and U+061C, U+200E, U+200F, U+202A to
# U+202E, U+2066 to U+2069, which change the direction of text (Unicode Standard Annex 9).
_DROPPED = (
    "[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x83\x86-\x8c\x8e\x8f\x91-\x97\x99\x9a\x9c"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+"
)
# VT, FF, IND, NEL, RI, and Unicode's separators.
_BREAKS = "\x0b\x0c\x84\x85\x8d\u2028\u2029"
# What begins a sequence: ESC; CSI and the string sequences as C1.
_OPENS_STRING = "\x90\x98\x9d-\x9f"
_OPENS = f"\x1b\x9b{_OPENS_STRING}"

# Each quantifier is possessive: nothing is looked at twice, however long a sequence is.
_ESC = f"\x1b[ -/]{{0,{_SEQUENCE_MAX}}}+"
_PARAMETERS = f"[ -?]{{0,{_SEQUENCE_MAX}}}+"
# xterm also ends a string at BEL. CAN and SUB break any sequence off.
_STRING = f"[^\x07\n\r\x18\x1a\x1b\x9c]{{0,{_SEQUENCE_MAX}}}+(?:[\x07\x18\x1a\x9c]|(?=.))"
# CUP, HVP, VPA, CNL, CPL move the cursor to another line. What is neither a parameter nor a final
# breaks the sequence off and stays; so does a parameter too many.
_CSI_MOVE = f"{_PARAMETERS}[HfdEF]"
_CSI_OTHER = f"{_PARAMETERS}(?:[@-DGI-ceg-~\x18\x1a]|(?=[^@-~\x18\x1a]))"

_NOTHING = (
    f"{_ESC}(?:\\[{_CSI_OTHER}|[]PX^_]{_STRING}|[^]\\[PX^_DEMc\x1b\r\n -/]|(?=[\x1b\r\n -/]))"
    f"|\x9b{_CSI_OTHER}|[{_OPENS_STRING}]{_STRING}"
)
"""A whole sequence that leaves no trace. ST is one, so a string ends before its ESC."""

# IND, NEL, RI, RIS after ESC; U+0084, U+0085 and U+008D are the first three as C1.
_MOVE = f"{_ESC}(?:[DEMc]|\\[{_CSI_MOVE})|\x9b{_CSI_MOVE}|[{_BREAKS}]"
"""A whole sequence, or a character, that moves the cursor to another line."""

_SPECIAL = re.compile(f"[{_OPENS}{_BREAKS}]|{_DROPPED}")
"""What ordinary text has nothing of but in its colours."""

_WHOLE = re.compile(f"(?:[^{_OPENS}]++|{_NOTHING}|{_MOVE})*+", re.DOTALL)
"""Everything before a sequence that is still open."""

_TRACELESS = re.compile(f"{_DROPPED}|{_NOTHING}", re.DOTALL)
_MOVES = re.compile(f"(?:{_MOVE})++")
_BREAK = "\x0b"
"""What stands for moves to another line until lines are made."""

_AFTER_TEXT = f"(?<=[^\n\r{_BREAK}]%s)[\r{_BREAK}]*+"
_LINE_END = re.compile(f"\r{_AFTER_TEXT % chr(13)}\n?|{_BREAK}{_AFTER_TEXT % _BREAK}")
"""What ends a line that has text: a CR with the LF that may follow it, or a move."""

# What the next piece follows: an empty line, text, or the CR that has ended a line.
_EMPTY, _TEXT, _CR = "\n", "x", "x\r"


class TerminalFilter:
    """Filters one stream; how the stream is cut into pieces makes no difference to the result."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._open = ""
        """The sequence whose end has not come."""
        self._before = _EMPTY

    def feed(self, data: bytes) -> bytes:
        r"""Return the text that `data` adds to the log. What is not UTF-8 becomes U+FFFD.

        "\r\n" ends a line, as does a run of "\r" with text before it.
        """
        text = self._open + self._decoder.decode(data)
        if _SPECIAL.search(text) is None:
            self._open = ""
            return self._lines(text).encode()
        whole = _WHOLE.match(text)
        assert whole is not None  # it matches the empty string
        self._open = text[whole.end() :]
        # The newline is for what looks ahead: every sequence ends before one.
        text = _TRACELESS.sub("", whole.group() + "\n")[:-1]
        return self._lines(_MOVES.sub(_BREAK, text)).encode()

    def break_line(self) -> bytes:
        """Return what ends the current line, if there is one; forget a sequence that is open."""
        self._decoder.reset()
        self._open = ""
        ended, self._before = self._before == _TEXT, _EMPTY
        return b"\n" if ended else b""

    def _lines(self, text: str) -> str:
        """Return `text` with its line ends as newlines; elsewhere CR and moves do nothing."""
        before = self._before
        text = before + text
        lines = _LINE_END.sub("\n", text).replace("\r", "").replace(_BREAK, "")
        last = text.rstrip("\r\x0b")
        if not last.endswith("\n") and text[len(last) :].startswith("\r"):
            self._before = _CR
        else:
            self._before = _EMPTY if lines.endswith("\n") else _TEXT
        return lines[len(before) :]
