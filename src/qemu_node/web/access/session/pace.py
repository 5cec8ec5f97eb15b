"""How often something may happen: pure.

Owns the count of one session's lines in the log. Who sends requests without end would otherwise
have the journal drop lines, also those about others.
"""

PER_S = 10.0
BURST = 100.0


class Pace:
    """A bucket that `BURST` fill and that empties by `PER_S`."""

    def __init__(self) -> None:
        self._level = 0.0
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Tell whether it may happen at `now_s`, and count it then."""
        if self._at_s is not None:
            self._level -= max(now_s - self._at_s, 0.0) * PER_S
        self._at_s = now_s
        self._level = max(self._level, 0.0)
        if self._level + 1.0 > BURST:
            return False
        self._level += 1.0
        return True
