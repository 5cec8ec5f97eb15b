"""A machine's serial console as a person uses it: read until something appears, log in, type.

Owns the connection and what was read from it. Does not own the log file: QEMU writes that itself.
"""

import re
import socket
import threading
import time
from pathlib import Path

_TAIL_CHARS = 3000
# Escape sequences of terminals: CSI, OSC, and the short ones.
_ESCAPES = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[=>()][0-9AB]?"
)


class ConsoleError(AssertionError):
    """What was waited for did not appear; the message has the console's last lines."""


class SerialConsole:
    """The text that a machine prints, and a keyboard."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._text = ""
        self._position = 0
        """Where the next `expect` starts."""
        self._more = threading.Condition()
        self._is_open = True
        threading.Thread(target=self._read, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    @property
    def text(self) -> str:
        """All that was printed so far, without escape sequences."""
        return self._text

    def expect(self, pattern: str, *, timeout_s: float) -> re.Match[str]:
        """Return the first match of `pattern` behind the last one that was expected.

        Raises:
            ConsoleError: it did not appear within `timeout_s`, or the machine has ended.
        """
        compiled = re.compile(pattern)
        deadline = time.monotonic() + timeout_s
        with self._more:
            while True:
                if match := compiled.search(self._text, self._position):
                    self._position = match.end()
                    return match
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._is_open:
                    why = "within the time" if self._is_open else "before the machine ended"
                    raise ConsoleError(f"no {pattern!r} {why}:\n{self._text[-_TAIL_CHARS:]}")
                self._more.wait(min(left_s, 5))

    def send(self, line: str) -> None:
        """Type `line` and Enter."""
        self._socket.sendall(line.encode() + b"\r")

    def log_in(self, user: str, password: str, *, timeout_s: float) -> None:
        """Log in at the next login prompt; the shell prints nothing but what commands print."""
        self.expect(r"login: ", timeout_s=timeout_s)
        self.send(user)
        self.expect(r"[Pp]assword: ", timeout_s=60)
        self.send(password)
        self.expect(r"[#$] $", timeout_s=60)
        self.send("stty -echo; PS1= PS2= TERM=dumb; unset PROMPT_COMMAND")
        self.run("true")

    def run(self, command: str, *, timeout_s: float = 120) -> str:
        """Return what `command` printed in the shell of `log_in`.

        Raises:
            ConsoleError: it failed or did not end in time.
        """
        # In halves: the terminal may still echo what is typed.
        self.send(f'{{ {command}; }} </dev/null; echo "<en""d $?>"')
        start = self._position
        match = self.expect(r"<end (\d+)>", timeout_s=timeout_s)
        output = self._text[start : match.start()].replace("\r", "")
        if match[1] != "0":
            raise ConsoleError(f"{command!r} failed with {match[1]}: {output[-_TAIL_CHARS:]}")
        return output

    def _read(self) -> None:
        """Collect what arrives until the machine closes its end. Runs in a thread."""
        raw = ""
        while True:
            try:
                chunk = self._socket.recv(65536)
            except OSError:
                chunk = b""
            with self._more:
                raw += chunk.decode(errors="replace")
                # An escape sequence may be in two chunks.
                done, raw = (
                    (raw, "") if not chunk or "\x1b" not in raw[-16:] else (raw[:-16], raw[-16:])
                )
                self._text += _ESCAPES.sub("", done)
                self._is_open = bool(chunk)
                self._more.notify_all()
            if not chunk:
                return
