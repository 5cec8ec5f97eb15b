"""What somebody who comes later is shown first: pure.

Owns the last bytes that came while somebody was there, the end of the log before them, and the
terminal's modes at the first of these bytes. Replayed, they make the terminal of somebody who was
there all the time. Does not own reading the log.
"""

import re

from qemu_node.units import KIB
from qemu_node.vm.output.textfilter import TerminalFilter
from qemu_node.web.viewer.serial.modes import Modes

KEPT_BYTES = 256 * KIB
_SLACK_BYTES = 64 * KIB
"""Removed in one go."""
_CUT_BYTES = 4 * KIB
"""How far a better place for a cut is looked for."""
LOG_BYTES = 64 * KIB
OVERLAP_BYTES = 16 * KIB

_SAFE_CUT = re.compile(rb"\n|(?=\x1b)")
"""Behind a line, or before a sequence: no sequence and no character is cut there."""
_CONTINUATION = range(0x80, 0xC0)


class Scrollback:
    """Of one VM, while its port is open."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._modes = Modes()
        self._is_whole = True
        self._has_log = False

    def add(self, data: bytes) -> None:
        """Append what the guest has printed now."""
        self._data += data
        if len(self._data) > KEPT_BYTES + _SLACK_BYTES:
            end = _cut_at(self._data, len(self._data) - KEPT_BYTES)
            self._modes.feed(bytes(self._data[:end]))
            del self._data[:end]
            self._is_whole = False

    def wants_log(self) -> bool:
        """Tell whether the log's end belongs before what is here."""
        return self._is_whole and not self._has_log and len(self._data) <= OVERLAP_BYTES

    def put_log(self, log: bytes) -> None:
        """Put the end of the log before what is here; what both have is shown once."""
        if not self.wants_log():
            return
        self._has_log = True
        text = TerminalFilter().feed(log[-LOG_BYTES:])
        text = without_overlap(text, TerminalFilter().feed(bytes(self._data)))
        self._data[:0] = text.replace(b"\n", b"\r\n")

    def replay(self) -> bytes:
        """Return what makes a new terminal like that of somebody who was there."""
        return self._modes.sequence() + bytes(self._data)


def without_overlap(log: bytes, live: bytes) -> bytes:
    """Return `log` without its longest end that `live` begins with.

    Both are of the same text: `live` since some moment, `log` up to a later one.
    """
    live = live[:OVERLAP_BYTES]
    log_end = log[-len(live) :] if live else b""
    # How much of the beginning of `live` ends at each byte (Knuth, Morris, Pratt): a guest must not
    # be able to make this slow.
    borders = [0] * len(live)
    length = 0
    for n in range(1, len(live)):
        while length and live[n] != live[length]:
            length = borders[length - 1]
        length += live[n] == live[length]
        borders[n] = length
    length = 0
    for byte in log_end:
        while length and (length == len(live) or byte != live[length]):
            length = borders[length - 1]
        length += byte == live[length]
    return log[: len(log) - length]


def _cut_at(data: bytearray, least: int) -> int:
    """Return where to cut, at `least` or a little later."""
    found = _SAFE_CUT.search(data, least, least + _CUT_BYTES)
    if found is not None:
        return found.end()
    end = least
    while end < min(least + 3, len(data)) and data[end] in _CONTINUATION:
        end += 1
    return end
