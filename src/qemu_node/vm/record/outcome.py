"""How a VM ended: pure.

Owns turning evidence (what QMP said, the exit status, the OOM counter, whether we were stopping it)
into what Nomad is told: every way for a VM to end, and its reason, is here. Does not own collecting
the evidence.
"""

import signal
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from qemu_node.host.process.exitstatus import signal_name, with_last_words
from qemu_node.qmp.events import (
    GuestPanicked,
    PanicInfo,
    QmpEvent,
    RunState,
    Shutdown,
    StatusInfo,
    Watchdog,
    typed,
)
from qemu_node.text import printable

_UINT64_MAX = (1 << 64) - 1


class VMExit(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a VM as Nomad shows it. A `reason` makes the task count as failed."""

    exit_code: int
    signal: int = 0
    oom_killed: bool = False
    reason: str | None = None

    @property
    def is_failure(self) -> bool:
        """True unless the guest powered off."""
        return self.reason is not None or self.exit_code != 0


POWERED_OFF = VMExit(exit_code=0)
"""The guest shut itself down, asked or not."""

FORCED_OFF = VMExit(exit_code=137, signal=int(signal.SIGKILL))
"""It did not, in the time that Nomad gave it, and was killed; reported like any killed task."""


class EndKind(StrEnum):
    """What an end is counted as."""

    POWERED_OFF = "powered-off"
    FORCED = "forced"
    """It did not shut down in the time that Nomad gave it."""
    PANICKED = "panicked"
    HUNG = "hung"
    OUT_OF_MEMORY = "out-of-memory"
    """The kernel killed it, in its cgroup."""
    QEMU = "qemu"
    """QEMU failed, crashed, or was ended by somebody else."""


_PANICKED = "the guest's kernel panicked"
_HUNG = VMExit(exit_code=1, reason="the guest hung or halted: it no longer fed its watchdog")
_INTERNAL_ERROR = VMExit(
    exit_code=1, reason="QEMU stopped the guest: internal error of the accelerator"
)


def guest_end_of_status(status: StatusInfo) -> VMExit | None:
    """Return the end of the guest that a run state shows; None for a guest that may go on.

    QEMU keeps a guest that has ended, so that it can be asked (`ACTIONS` in `qemu.cmdline`). Where
    somebody forced the end on QEMU (`quit`, a signal), QEMU exits by itself: see
    `judge_process_end`.
    """
    match status.status:
        case RunState.SHUTDOWN:
            return POWERED_OFF
        case RunState.GUEST_PANICKED:
            return _panicked(None)
        case RunState.INTERNAL_ERROR:
            return _INTERNAL_ERROR
        case RunState.WATCHDOG:
            return _HUNG
        case _:
            return None


def guest_end_of_event(event: QmpEvent) -> VMExit | None:
    """Return the end of the guest that `event` announces; None for every other event.

    After GUEST_PANICKED comes no SHUTDOWN, as QEMU pauses then. An internal error is announced by
    STOP alone, so ask for the status after one.
    """
    match typed(event):
        case GuestPanicked(info=info):
            return _panicked(info)
        case Shutdown(reason="guest-panic"):
            return _panicked(None)
        case Shutdown(guest=True):
            return POWERED_OFF
        case Watchdog(action="pause"):
            return _HUNG
        case _:
            return None


def _panicked(info: PanicInfo | None) -> VMExit:
    reason = _PANICKED
    if info is not None and info.type == "hyper-v":
        code, *parameters = (
            f"{arg & _UINT64_MAX:#x}"
            for arg in (info.arg1, info.arg2, info.arg3, info.arg4, info.arg5)
        )
        reason += f": Windows bug check {code} ({', '.join(parameters)})"
    elif info is not None:
        reason += f" ({printable(info.type)})"
        reason += f": {printable(info.message)}" if info.message else ""
    return VMExit(exit_code=1, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnd:
    """What is known once QEMU's process is gone."""

    exit_status: int | None
    """Exit code, -N for death by signal N; None: it was not our child."""
    was_watched: bool
    """The driver was there when it ended."""
    is_stopping: bool
    """We were ending it on Nomad's order."""
    oom_kills: int
    """OOM kills in its cgroup since it started."""
    last_words: str
    """The end of what it wrote to stderr."""


def judge_process_end(end: ProcessEnd) -> VMExit:
    """Return how a VM ended whose QEMU is gone without QMP having told a reason first."""
    if end.oom_kills > 0:
        return VMExit(
            exit_code=137,
            signal=int(signal.SIGKILL),
            oom_killed=True,
            reason="the kernel killed the VM: its cgroup was out of memory",
        )
    if end.is_stopping:
        return FORCED_OFF
    status = end.exit_status
    if status is None:
        exit_code = 1
        how = (
            "QEMU crashed or was killed; how is not known, as an earlier driver had started it"
            if end.was_watched
            else "QEMU ended while the driver was away"
        )
    elif status < 0:
        exit_code = 128 - status
        how = f"QEMU was killed by {signal_name(-status)}"
    elif status > 0:
        exit_code = status
        how = f"QEMU failed with exit code {status}"
    else:
        # An operator's `quit` or a SIGTERM from outside ended it.
        exit_code = 0
        how = "QEMU was ended from outside Nomad"
    return VMExit(
        exit_code=exit_code,
        signal=max(-(status or 0), 0),
        reason=with_last_words(how, end.last_words),
    )


def is_nodes_end(*, is_marked: bool, is_end_written: bool, is_same_boot: bool) -> bool:
    """Tell whether a VM that is gone ended with its node, which says nothing about its task.

    Args:
        is_marked: It was told to end because the node goes down. A driver that was still there may
            have written that end down as the guest's own.
        is_end_written: Its driver saw how it ended.
        is_same_boot: The node has not booted since its start. If it has, and nobody saw the VM end,
            the node took it along: a power cut, or a shutdown that ended it by force.
    """
    return is_marked or not (is_end_written or is_same_boot)


def kind_of(outcome: VMExit) -> EndKind:
    """Return what the end of a VM is counted as."""
    if outcome.oom_killed:
        return EndKind.OUT_OF_MEMORY
    if outcome == POWERED_OFF:
        return EndKind.POWERED_OFF
    if outcome == FORCED_OFF:
        return EndKind.FORCED
    if outcome == _HUNG:
        return EndKind.HUNG
    if outcome.reason is not None and outcome.reason.startswith(_PANICKED):
        return EndKind.PANICKED
    return EndKind.QEMU


def describe(outcome: VMExit) -> str:
    """Return the end of a VM in words, for the task's log."""
    if outcome.reason is not None:
        return outcome.reason
    return "the guest did not shut down in time" if outcome.signal else "the guest powered off"
