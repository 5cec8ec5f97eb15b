"""The daemon's log: one line an event, with its fields.

Owns the form. What others have written is printed without control characters, so that no line can
be made to look like two.
"""

import json
import logging
from datetime import UTC, datetime

from qemu_node.text import clean

_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LINE_MAX_CHARS = 4000
# man 3 sd-daemon
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


class JournalFormatter(logging.Formatter):
    """`event key=value …`; for the journal with its priority, else with the time."""

    def __init__(self, *, is_journal: bool) -> None:
        super().__init__()
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line; a traceback follows on lines of its own."""
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        begin = f"<{priority}>"
        if not self._is_journal:
            begin = f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%SZ} "
        who = "audit: " if record.name == "qemu_node.audit" else ""
        fields = "".join(
            f" {name}={_value(value)}"
            for name, value in vars(record).items()
            if name not in _ATTRIBUTES
        )
        line = clean(f"{who}{record.getMessage()}{fields}")[:_LINE_MAX_CHARS]
        lines = [line]
        if record.exc_info and record.exc_info[0] is not None:
            text = self.formatException(record.exc_info)
            lines += [clean(each)[:_LINE_MAX_CHARS] for each in text.splitlines()]
        return "\n".join(f"{begin}{each}" for each in lines)


def _value(value: object) -> str:
    if isinstance(value, int | float) or value is None:
        return json.dumps(value)
    text = str(value)
    is_word = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if text and is_word else json.dumps(text, ensure_ascii=False)
