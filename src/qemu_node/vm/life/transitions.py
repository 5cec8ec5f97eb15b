"""What happens in a VM's life, and what its driver does then: pure.

    RUNNING ──guest ended──▶ GUEST_ENDED ──QEMU gone──▶ EXITED ──files removed──▶ DESTROYED
       └─────────────────────QEMU gone────────────────────▲

Owns the state of a VM and the order of acts: an end is told once, and it is on disk before the act
that destroys the evidence. Does not own carrying acts out (`machine`) nor the times of a stop
(`stopladder`). A stop is no phase: the VM may end by itself meanwhile, and a stop may be given up.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from qemu_node.vm.life.stopladder import StopAction
from qemu_node.vm.record.outcome import FORCED_OFF, VMExit


class VMPhase(StrEnum):
    """Where a VM is in its life."""

    RUNNING = "running"
    GUEST_ENDED = "guest-ended"
    """QEMU keeps the guest that has ended, and is being ended itself."""
    EXITED = "exited"
    """QEMU is gone."""
    DESTROYED = "destroyed"
    """Its files are gone, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """The state of a VM."""

    phase: VMPhase = VMPhase.RUNNING
    stops: int = 0
    """Calls of `VM.stop` that are under way."""
    end: VMExit | None = None
    """How the guest ended; from EXITED on, how the VM did."""


# Events.


@dataclass(frozen=True, slots=True)
class GuestEnded:
    """QMP says that the guest has ended."""

    end: VMExit


@dataclass(frozen=True, slots=True)
class GuestRuns:
    """QMP says that the guest has not ended."""


@dataclass(frozen=True, slots=True)
class StopBegun:
    """Somebody wants the VM to end."""


@dataclass(frozen=True, slots=True)
class StopOver:
    """A stop has returned or was given up."""


@dataclass(frozen=True, slots=True)
class StepDue:
    """It is time for a step of the stop ladder."""

    action: StopAction


@dataclass(frozen=True, slots=True)
class QemuGone:
    """The process has ended."""

    end: VMExit
    """How the VM ended, unless QMP told."""
    is_written: bool = False
    """It was read from disk."""


@dataclass(frozen=True, slots=True)
class FilesRemoved:
    """Nothing of the VM is left."""


Event = GuestEnded | GuestRuns | StopBegun | StopOver | StepDue | QemuGone | FilesRemoved


# Acts, beside those of the stop ladder.


@dataclass(frozen=True, slots=True)
class WriteEnd:
    """Put the end on disk, for a driver that comes after us."""

    end: VMExit


class Act(StrEnum):
    """What the driver does."""

    FORGET_END = "forget-end"
    """Remove the end from disk: it was that of a stop which was never finished."""
    HOLD_TAPS = "hold-taps"
    """Have the TAPs open as well, as QEMU ends now."""
    TELL_END = "tell-end"
    CLEAN_UP = "clean-up"
    RELEASE_LOCK = "release-lock"


Acts = tuple[Act | WriteEnd | StopAction, ...]


def advance(life: Life, event: Event) -> tuple[Life, Acts]:
    """Return the state after `event`, and what is to be done, in this order.

    What cannot happen in a state changes nothing.
    """
    is_live = life.phase in (VMPhase.RUNNING, VMPhase.GUEST_ENDED)
    match event:
        case GuestEnded(end) if life.phase is VMPhase.RUNNING:
            # Its QEMU is ended by the QUIT and KILL of the ladder, which write the end down first.
            return replace(life, phase=VMPhase.GUEST_ENDED, end=end), ()
        case GuestRuns() if life.phase is VMPhase.RUNNING and not life.stops:
            # Not before it is seen to run: a QEMU that was told to quit may take seconds to end.
            return life, (Act.FORGET_END,)
        case StopBegun():
            return replace(life, stops=life.stops + 1), ()
        case StopOver() if life.stops:
            return replace(life, stops=life.stops - 1), ()
        case StepDue(action) if is_live:
            return life, _step(life, action)
        case QemuGone(end, is_written) if is_live:
            write = () if is_written or life.end is not None else (WriteEnd(end),)
            gone = replace(life, phase=VMPhase.EXITED, end=life.end or end)
            return gone, (*write, Act.TELL_END, Act.CLEAN_UP)
        case FilesRemoved() if life.phase is VMPhase.EXITED:
            return replace(life, phase=VMPhase.DESTROYED), (Act.RELEASE_LOCK,)
        case _:
            return life, ()


def _step(life: Life, action: StopAction) -> Acts:
    match action:
        case StopAction.QUIT:
            return (WriteEnd(life.end or FORCED_OFF), Act.HOLD_TAPS, action)
        case StopAction.KILL:
            return (Act.HOLD_TAPS, action)
        case StopAction.GUEST_AGENT | StopAction.ACPI:
            return (action,) if life.phase is VMPhase.RUNNING else ()
