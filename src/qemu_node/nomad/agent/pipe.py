"""A child's output, read line by line, without a task or a thread.

Owns the pipe. Does not own the child nor what its lines mean.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Self

_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 20
"""A longer line is delivered in pieces."""


class LinePipe:
    """A pipe that calls `on_line` with each line, without its newline, as it arrives.

    Give `writing_end` to a child and close it here. `on_end` is called once, when the last process
    has closed the writing end. Both are called in the event loop.
    """

    def __init__(
        self, on_line: Callable[[bytes], None], *, on_end: Callable[[], None] | None = None
    ) -> None:
        self._on_line = on_line
        self._on_end = on_end
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self._fd, self.writing_end = os.pipe()
        os.set_blocking(self._fd, False)
        self._loop.add_reader(self._fd, self._read)

    def close_writing_end(self) -> None:
        """Close our copy of the writing end, so that the pipe ends when the child exits."""
        if self.writing_end >= 0:
            os.close(self.writing_end)
            self.writing_end = -1

    def drain(self) -> None:
        """Deliver what has arrived, including an unfinished last line."""
        while self._fd >= 0 and self._read():
            pass
        self._hand_over_rest()

    def close(self) -> None:
        """Stop reading. What has not been delivered is lost."""
        self.close_writing_end()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> bool:
        """Read once and deliver the whole lines; False if there is nothing more to read."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._end()
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._on_line(line)
        if len(self._buffer) > _MAX_LINE_BYTES:
            self._hand_over_rest()
        return True

    def _end(self) -> None:
        self._hand_over_rest()
        self.close()
        if self._on_end is not None:
            self._on_end()

    def _hand_over_rest(self) -> None:
        rest, self._buffer = self._buffer, b""
        if rest:
            self._on_line(rest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
