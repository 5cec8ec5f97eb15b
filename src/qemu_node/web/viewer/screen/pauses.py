"""When a VM's picture is not taken: pure.

Owns how long a picture stays fresh, and the pauses after one that cost its QEMU or us too much: a
guest waits while QEMU makes its picture, and others wait for the thread that reads it.
"""

from dataclasses import dataclass, replace

FRESH_S = 4.5
"""A page asks every five seconds for what it shows; several pages share the pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a picture may cost."""

    size_bytes: int = 32 << 20
    slow_s: float = 0.3
    pauses_s: tuple[float, ...] = (60.0, 300.0, 1800.0)
    """After the first picture that cost too much, after the second in a row, after any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """How it went so far with the pictures of one VM; times are of one clock."""

    taken_s: float | None = None
    """When the last picture was asked for."""
    until_s: float = 0.0
    """No picture is taken before."""
    in_a_row: int = 0
    """How many cost too much, up to the last one."""

    def is_due(self, now_s: float) -> bool:
        """Tell whether whoever asks now gets a new picture."""
        is_fresh = self.taken_s is not None and now_s < self.taken_s + FRESH_S
        return not is_fresh and now_s >= self.until_s

    def after_success(
        self, now_s: float, *, took_s: float, size_bytes: int, limits: Limits
    ) -> "Pause":
        """Return what follows from a picture that was taken."""
        if took_s > limits.slow_s or size_bytes > limits.size_bytes:
            return self.after_failure(now_s, limits)
        return Pause(taken_s=now_s)

    def after_failure(self, now_s: float, limits: Limits) -> "Pause":
        """Return what follows from a picture that was refused, or did not come in time."""
        step = min(self.in_a_row, len(limits.pauses_s) - 1)
        return replace(
            self,
            taken_s=now_s,
            until_s=now_s + limits.pauses_s[step],
            in_a_row=self.in_a_row + 1,
        )
