"""Following a task's log files, which its driver writes and rotates.

Source of the names: Nomad's client/logmon: `<task>.<stream>.<N>` in `<alloc>/alloc/logs`, highest N
newest.
"""

import codecs
from pathlib import Path

_CHUNK_BYTES = 64 * 1024
_MAX_LINE_CHARS = 4096


class LogTail:
    """Whole lines of one stream of one task, from its beginning, over rotations."""

    def __init__(self, logs_dir: Path, task_name: str, stream: str = "stdout") -> None:
        self._logs_dir = logs_dir
        self._prefix = f"{task_name}.{stream}."
        self._number = 0
        self._offset = 0
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
        while True:
            data = self._read_chunk()
            text += self._decoder.decode(data)
            if len(data) < _CHUNK_BYTES and not self._advance():
                break
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

    def _read_chunk(self) -> bytes:
        try:
            with (self._logs_dir / f"{self._prefix}{self._number}").open("rb") as file:
                file.seek(self._offset)
                data = file.read(_CHUNK_BYTES)
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        return data

    def _advance(self) -> bool:
        """Go on to the next file once there is one; files that have been removed are skipped."""
        numbers = [
            int(suffix)
            for path in self._logs_dir.glob("*")
            if (suffix := path.name.removeprefix(self._prefix)) != path.name and suffix.isdigit()
        ]
        later = [number for number in numbers if number > self._number]
        if not later:
            return False
        # The driver rotates after its last write: read what is left in the old file first.
        rest = self._read_chunk()
        if rest:
            self._offset -= len(rest)
            return True
        self._number, self._offset = min(later), 0
        return True
