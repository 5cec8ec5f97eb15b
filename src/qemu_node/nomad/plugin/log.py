"""The plugin's log: go-plugin's JSON lines on stderr, written without ever blocking.

Owns the format of a line and how it is written. Does not own what is logged.

Facts: go-plugin 1.8.0 log_entry.go and client.go, logStderr. The agent reads lines of up to 64
KiB, panics if `@message`, `@level` or `@timestamp` is not a string, and accepts only timestamps
with exactly six decimals. After the agent has crashed nobody reads, and the plugin must go on.
"""

import json
import logging
import os
import re
import socket
import stat
import traceback
from datetime import UTC, datetime
from typing import Any

_MAX_LINE_BYTES = 60_000  # the agent's buffer is 64 KiB with the newline
_MAX_TEXT_CHARS = 4_000
_MAX_TRACEBACK_CHARS = 12_000

_LEVELS = (
    (logging.ERROR, "error"),
    (logging.WARNING, "warn"),
    (logging.INFO, "info"),
    (logging.DEBUG, "debug"),
    (0, "trace"),
)

# The attributes of every LogRecord. All others come from the caller's `extra`.
_RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_HIDDEN = "***"
_SECRET_KEY = re.compile(
    r"secret|token|passw(or)?d|authorization|cookie|credential|signature", re.IGNORECASE
)
_URL_USERINFO = re.compile(r"(?<=://)[^/?#@\s\"']+@")
_URL_SECRET_PARAMETER = re.compile(
    r"([?&](?:[\w-]*(?:token|signature|credential|secret|passw(?:or)?d)|sig)=)[^&\s\"']+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return `text` without credentials: user names, passwords and signatures in URLs."""
    return _URL_SECRET_PARAMETER.sub(rf"\1{_HIDDEN}", _URL_USERINFO.sub(f"{_HIDDEN}@", text))


class JsonLinesFormatter(logging.Formatter):
    """Formats a record and its extra fields as one line of JSON, without the newline."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. It is valid JSON, whatever was logged."""
        head = {
            "@level": next(name for level, name in _LEVELS if record.levelno >= level),
            "@message": _shorten(redact(_message(record)), _MAX_TEXT_CHARS),
            "@module": str(record.name),
            "@timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(
                timespec="microseconds"
            ),
        }
        fields = {
            # None looks like one of go-plugin's own.
            key.lstrip("@") or "field": _field(key, value)
            for key, value in vars(record).items()
            if key not in _RECORD_ATTRIBUTES
        }
        if record.exc_info and record.exc_info[0] is not None:
            text = "".join(traceback.format_exception(*record.exc_info))
            fields["traceback"] = _shorten_front(redact(text), _MAX_TRACEBACK_CHARS)
        line = json.dumps(head | fields, ensure_ascii=False)
        if len(line.encode("utf-8", "backslashreplace")) > _MAX_LINE_BYTES:
            line = json.dumps(head | {"fields_left_out": len(fields)}, ensure_ascii=False)
        return line


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return f"{record.msg} {record.args!r}"


def _field(key: str, value: Any) -> Any:
    """Return `value` as a JSON value, with secrets hidden."""
    if _SECRET_KEY.search(key):
        return _HIDDEN
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _shorten(redact(value), _MAX_TEXT_CHARS)
    try:
        text = redact(json.dumps(value, default=str, allow_nan=False))
        return json.loads(text) if len(text) <= _MAX_TEXT_CHARS else _shorten(text, _MAX_TEXT_CHARS)
    except (TypeError, ValueError, RecursionError):
        return _shorten(redact(str(value)), _MAX_TEXT_CHARS)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]} …"


def _shorten_front(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"… {text[-limit:]}"


class NonBlockingHandler(logging.Handler):
    """Writes lines to a descriptor. Never waits, never fails.

    A line that does not fit a full pipe is dropped and counted; the count is logged once there is
    room. A line that was written in part is completed before the next. It is not an error if nobody
    reads.
    """

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self.dropped = 0
        self._unsent = b""
        self._output = _open_output(fd)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line, or drop it."""
        try:
            line = self._line(record)
            if not self._finish_unsent():
                self.dropped += 1
                return
            if self.dropped and self._begin(self._line(self._dropped_record())):
                self.dropped = 0
            if self._unsent or not self._begin(line):
                self.dropped += 1
        except Exception:  # logging must never make its caller fail
            self.dropped += 1

    def close(self) -> None:
        """Close the descriptor. Later records are dropped."""
        self.acquire()
        try:
            self._output.close()
        finally:
            self.release()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace") + b"\n"

    def _dropped_record(self) -> logging.LogRecord:
        return logging.makeLogRecord({
            "name": __name__,
            "levelno": logging.WARNING,
            "msg": "log lines were dropped: nobody read them",
            "count": self.dropped,
        })  # fmt: skip

    def _begin(self, line: bytes) -> bool:
        """Write what fits of a new line and keep the rest; False if nothing was written."""
        try:
            written = self._output.write(line)
        except OSError:
            return False
        self._unsent = line[written:]
        return True

    def _finish_unsent(self) -> bool:
        """Write the rest of a line; False if there is still some left."""
        if self._unsent:
            try:
                self._unsent = self._unsent[self._output.write(self._unsent) :]
            except BlockingIOError:
                return False
            except OSError:
                self._unsent = b""  # the reader of its beginning is gone
        return not self._unsent


class _FileOutput:
    """A file, a terminal, or a pipe that we have opened without blocking."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _SocketOutput:
    """A stream socket, such as the journal's."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._socket.close()


def _open_output(fd: int) -> _FileOutput | _SocketOutput:
    """Return an output to the same place as `fd` that does not wait for a reader.

    O_NONBLOCK on `fd` itself would affect every process that shares the open file, such as a shell
    on the same terminal, or a child. A pipe can be opened again through /proc.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return _SocketOutput(os.dup(fd))
    if not stat.S_ISFIFO(mode):
        return _FileOutput(os.dup(fd))
    try:
        return _FileOutput(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        # Nobody reads at the moment (ENXIO), or the pipe belongs to another user (EACCES). Then
        # the pipe was made for us, and no other process needs its writing end to block.
        own = os.dup(fd)
        os.set_blocking(own, False)
        return _FileOutput(own)


def configure(level: int = logging.INFO, *, fd: int = 2) -> NonBlockingHandler:
    """Send all that is logged in this process to `fd`, in the agent's format."""
    handler = NonBlockingHandler(fd)
    handler.setFormatter(JsonLinesFormatter())
    root = logging.getLogger()
    for previous in list(root.handlers):
        root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(level)
    # At level debug, gRPC and asyncio log every call and every loop.
    for name in ("grpc", "asyncio"):
        logging.getLogger(name).setLevel(max(level, logging.INFO))
    logging.captureWarnings(capture=True)
    return handler
