"""The lines of a task's console log while it grows.

Owns cutting text into lines. Does not own the files (`inventory.consolelog`).
"""

import codecs

from qemu_node.errors import HostError
from qemu_node.inventory.consolelog import ConsoleLog

_MAX_LINE_CHARS = 4096


class LogTail:
    """Whole lines of one task's console, from its beginning."""

    def __init__(self, console: ConsoleLog) -> None:
        self._console = console
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._partial = ""
        self._last = ""

    def last_line(self) -> str:
        """Return the last line with text in it, also one that is not complete: a prompt, say."""
        for line in [*self.read_lines(), self._partial]:
            self._last = line.strip() or self._last
        return self._last

    def read_lines(self) -> list[str]:
        """Return the lines that came since the last call; a very long one is cut into pieces."""
        text = self._partial
        while data := self._read():
            text += self._decoder.decode(data)
        *lines, self._partial = text.split("\n")
        if len(self._partial) > _MAX_LINE_CHARS:
            lines.append(self._partial)
            self._partial = ""
        return [line.rstrip("\r") for line in lines]

    def flush(self) -> list[str]:
        """Return what remains, the last line without its newline too."""
        lines = self.read_lines()
        rest, self._partial = self._partial, ""
        return [*lines, rest] if rest else lines

    def _read(self) -> bytes:
        try:
            return self._console.read()
        except HostError:
            # The driver has not made the directory yet.
            return b""
