"""A token bucket: how much may pass now so that the long-run rate is kept.

Pure: the clock is handed in. Does not own what happens to that which may not pass.
"""


class TokenBucket:
    """Fills at `rate_bytes_per_s` up to `burst_bytes`, and starts full."""

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
