"""When a VM's picture is not taken: pure.

Owns how long a picture stays fresh, longer and longer while the screen stays the same, what tells
that it may not be the same any more, and the pauses after one that cost its QEMU or us too much: a
guest waits while QEMU makes its picture, and others wait for the thread that reads it.
"""

from dataclasses import dataclass, replace

FRESH_S = 4.5
"""A page asks every five seconds for what it shows; several pages share the pictures."""
_FRESH_DOUBLINGS = 3
"""A screen that has been the same four times is looked at every 36 s. Most screens of a node show a
login prompt for days, and each look costs its QEMU and us some milliseconds."""
_WOKE_PCT = 3.0
"""A guest that draws uses more of a core than before."""


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
    same_in_a_row: int = 0
    """How many were the same as the one before, up to the last one."""

    def due_s(self, *, may_differ: bool) -> float:
        """Return when whoever asks gets a new picture.

        Args:
            may_differ: Something tells that the screen may be another one, or he has none yet.
        """
        if self.taken_s is None:
            return self.until_s
        doublings = 0 if may_differ else min(self.same_in_a_row, _FRESH_DOUBLINGS)
        return max(self.taken_s + FRESH_S * (1 << doublings), self.until_s)

    def is_due(self, now_s: float, *, may_differ: bool = True) -> bool:
        """Tell whether whoever asks now gets a new picture; see `due_s`."""
        return now_s >= self.due_s(may_differ=may_differ)

    def after_success(
        self, now_s: float, *, took_s: float, size_bytes: int, limits: Limits, is_same: bool = False
    ) -> "Pause":
        """Return what follows from a picture that was taken."""
        if took_s > limits.slow_s or size_bytes > limits.size_bytes:
            return self.after_failure(now_s, limits)
        return Pause(taken_s=now_s, same_in_a_row=self.same_in_a_row + 1 if is_same else 0)

    def after_failure(self, now_s: float, limits: Limits) -> "Pause":
        """Return what follows from a picture that was refused, or did not come in time."""
        step = min(self.in_a_row, len(limits.pauses_s) - 1)
        return replace(
            self,
            taken_s=now_s,
            until_s=now_s + limits.pauses_s[step],
            in_a_row=self.in_a_row + 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What is known of a VM, without its screen, when its picture is taken."""

    state: str = ""
    cpu_pct: float | None = None
    """Of one core."""

    def differ_from(self, before: "Signs") -> bool:
        """Tell whether the screen is probably another one than `before`."""
        woke = (self.cpu_pct or 0.0) - (before.cpu_pct or 0.0) > _WOKE_PCT
        return woke or self.state != before.state
