"""From the guest's serial port to the task's log: filtered, at a bounded rate, without loss.

Owns moving the bytes, and the order: a byte is consumed from the serial log only after the sink has
it, so a driver killed in between repeats a few bytes and loses none. Does not own the serial
log (`serial`), what is removed from the text (`textfilter`) nor the log files
(`nomad.task.tasklog`).

The serial log is also the buffer. Output beyond the rate waits there; only when more than
`BACKLOG_BYTES` wait is the oldest of it dropped, and the log says how much. So neither a burst at
boot nor the time without a driver costs a line, and what a crashing guest printed last always
arrives.
"""

import logging
import time
from collections.abc import Callable, Sequence

from qemu_node.units import KIB, MIB, format_size
from qemu_node.vm.output.serial import SerialLog
from qemu_node.vm.output.textfilter import TerminalFilter

log = logging.getLogger(__name__)

BACKLOG_BYTES = 32 * MIB
"""Output that may wait for the rate; also the bound of the disk space that it takes."""

_CHUNK_BYTES = 64 * KIB
"""What is filtered in one go: 3 ms of ordinary text, 10 ms of the worst that is known."""

_LAST_BYTES = 1 * MIB
_TAIL_BYTES = 1000
_IDLE_S = 1.0
_MAX_LINE_BYTES = 4 * KIB
_ROUND_S = 0.05


class TokenBucket:
    """How much may pass now so that the long-run rate is kept: pure.

    Fills at `rate_bytes_per_s` up to `burst_bytes`, and starts full. The clock is handed in.
    """

    def __init__(self, rate_bytes_per_s: float, burst_bytes: int) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self.burst_bytes = burst_bytes
        self._tokens = float(burst_bytes)
        self._filled_at: float | None = None

    def available(self, now: float) -> int:
        """Return the bytes that may pass at `now`, in seconds of a monotonic clock."""
        if self._filled_at is not None:
            gained = max(0.0, now - self._filled_at) * self.rate_bytes_per_s
            self._tokens = min(float(self.burst_bytes), self._tokens + gained)
        self._filled_at = now
        return int(self._tokens)

    def take(self, wanted: int, now: float) -> int:
        """Take up to `wanted` bytes at `now` and return how many were granted."""
        granted = min(wanted, self.available(now))
        self._tokens -= granted
        return granted


class ConsolePump:
    """Moves one guest's output. Used from one thread at a time; it waits for disks alone."""

    def __init__(
        self,
        serial: SerialLog,
        text_filter: TerminalFilter,
        bucket: TokenBucket,
        sink: Callable[[bytes], None],
    ) -> None:
        """Make the pump of `serial`.

        Args:
            serial: Where the guest's output is taken from.
            text_filter: What makes text of it.
            bucket: The rate; with a burst below 4 KiB, long lines arrive in pieces.
            sink: Where the text goes. What it has returned from counts as delivered.
        """
        self._serial = serial
        self._filter = text_filter
        self._bucket = bucket
        self._sink = sink
        self._line_max = min(_MAX_LINE_BYTES, bucket.burst_bytes)
        self._partial_bytes = 0
        self._partial_since = 0.0
        self._has_failed = False
        self._is_closed = False
        self.tail = b""
        """The end of what was moved, as text; it is no longer in the serial log."""

    def poll(self, now: float | None = None) -> int:
        """Move at most 64 KiB to the sink; return how many of the guest's bytes were consumed.

        Whole lines move. What is no line yet stays, until it is long or nothing has come for a
        second (a prompt). A sink or file that fails is logged once and tried again at the next
        poll.

        Args:
            now: The time on a monotonic clock, `time.monotonic()` by default.
        """
        if self._is_closed:
            return 0
        try:
            moved = self._move(time.monotonic() if now is None else now)
        except OSError as exc:
            self._report(exc)
            return 0
        self._has_failed = False
        return moved

    def _report(self, exc: OSError) -> None:
        if not self._has_failed:
            log.warning(
                "guest output could not be logged",
                extra={"path": str(self._serial.path), "error": str(exc)},
            )
        self._has_failed = True

    def _move(self, now: float) -> int:
        pending = self._serial.pending_bytes()
        if pending == 0:
            return 0
        is_idle = False
        if pending == self._partial_bytes:
            is_idle = now - self._partial_since >= _IDLE_S
            if not is_idle:
                return 0
        dropped = self._drop(pending, BACKLOG_BYTES)
        allowed = self._bucket.available(now)
        # Cut short by the rate, a line would look like one that does not end.
        if allowed < min(pending, self._line_max):
            return dropped
        data = self._serial.read_new(min(allowed, _CHUNK_BYTES))
        end = len(data) if is_idle or len(data) >= self._line_max else 0
        # Where the last whole line ends.
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1 or end
        self._partial_bytes = 0 if end else pending - dropped
        self._partial_since = now
        if end:
            self._bucket.take(end, now)
            self._pass_on(data[:end])
        return dropped + end

    def _pass_on(self, data: bytes) -> None:
        text = self._filter.feed(data)
        if text:
            self._sink(text)
            self.tail = (self.tail + text)[-_TAIL_BYTES:]
        self._serial.consume(len(data))

    def _drop(self, pending: int, keep: int) -> int:
        """Consume the oldest of what is more than `keep`, and say so in the log."""
        excess = pending - keep
        if excess <= 0:
            return 0
        rate = format_size(int(self._bucket.rate_bytes_per_s))
        notice = f"[{excess} bytes dropped: more than {rate} a second were printed]\n"
        self._sink(self._filter.break_line() + notice.encode())
        self._serial.consume(excess)
        return excess

    def drain_some(self) -> bool:
        """Move a piece of what is there, whatever the rate: the guest is gone.

        Returns whether there may be more.
        """
        if self._is_closed:
            return False
        try:
            self._drop(self._serial.pending_bytes(), BACKLOG_BYTES)
            data = self._serial.read_new(_CHUNK_BYTES)
            if data:
                self._pass_on(data)
        except OSError as exc:
            self._report(exc)
            return False
        return bool(data)

    def finish(self) -> None:
        """Move what is left and stop. Harmless when done twice.

        At most the newest MiB is moved: `drain_some` comes first.
        """
        if self._is_closed:
            return
        try:
            self._drop(self._serial.pending_bytes(), _LAST_BYTES)
            while data := self._serial.read_new(_CHUNK_BYTES):
                self._pass_on(data)
            if last := self._filter.break_line():
                self._sink(last)
        except OSError as exc:
            self._report(exc)
        self.close()

    def close(self) -> None:
        """Stop; what is left waits in the serial log for the next pump."""
        self._is_closed = True


class PumpTurns:
    """Polls many pumps in fair turns.

    A round takes 50 ms at most and the next one begins where it stopped: guests that print all the
    time share that time, and what else the thread has to do waits no longer.
    """

    def __init__(self) -> None:
        self._first: ConsolePump | None = None

    def poll(self, pumps: Sequence[ConsolePump]) -> None:
        """Poll each pump until it has nothing to move or the round's time is over."""
        began = time.monotonic()
        start = pumps.index(self._first) if self._first in pumps else 0
        self._first = None
        turn = [*pumps[start:], *pumps[:start]]
        while turn:
            busy = []
            for pump in turn:
                if time.monotonic() - began > _ROUND_S:
                    self._first = pump
                    return
                if pump.poll(began):
                    busy.append(pump)
            turn = busy
