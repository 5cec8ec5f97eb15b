"""The stop ladder: pure.

Guest agent → ACPI power button → QMP quit → SIGKILL, within Nomad's kill_timeout. Nomad's client
does not enforce that timeout on a plugin (2.0.6: 4 s given, 9 s waited), so the ladder does.
"""

from dataclasses import dataclass
from enum import StrEnum


class StopAction(StrEnum):
    """One rung; each is gentler than the next."""

    GUEST_AGENT = "guest-agent"
    ACPI = "acpi"
    QUIT = "quit"
    KILL = "kill"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopStep:
    """Do `action` at `at_s` seconds after the request, unless the guest is gone by then."""

    action: StopAction
    at_s: float


_QUIT_GRACE_S = 2.0
"""What QEMU gets to leave by itself; it closes its files at once, this is for a busy host."""


def plan_stop(timeout_s: float, *, has_agent: bool) -> tuple[StopStep, ...]:
    """Return the rungs for a stop that must be over `timeout_s` seconds after the request.

    The guest gets all the time but a tail of at most two seconds, a quarter of a short timeout. A
    guest whose agent takes the request has half of its time before the power button is pressed as
    well. Without an agent to ask the button comes first. No time at all means quit and kill.
    """
    tail_s = min(_QUIT_GRACE_S, timeout_s / 4)
    guest_s = timeout_s - tail_s
    steps = []
    if guest_s > 0:
        if has_agent:
            steps.append(StopStep(action=StopAction.GUEST_AGENT, at_s=0.0))
        steps.append(StopStep(action=StopAction.ACPI, at_s=guest_s / 2 if has_agent else 0.0))
    steps.append(StopStep(action=StopAction.QUIT, at_s=guest_s))
    steps.append(StopStep(action=StopAction.KILL, at_s=guest_s + tail_s / 2))
    return tuple(steps)
