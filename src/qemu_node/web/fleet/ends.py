"""What QEMU has said of a guest, and how its VM ended: pure.

Owns which of the words that are left of an ended VM is the one to show, and how long ended VMs are
remembered. Does not own what an end means for Nomad (`vm.record.outcome`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qemu_node.qmp.events import RunState
from qemu_node.vm.record.outcome import VMExit, describe
from qemu_node.web.fleet.model import EndView, VMView

KEPT_S = 24 * 3600.0
KEPT_MAX = 200
"""A job that fails at once, again and again, does not fill the daemon."""

_CAUSES = {
    "host-qmp-quit": "QEMU was told to quit: its guest was stopped by force",
    "host-signal": "QEMU was ended by a signal",
    "host-error": "QEMU ended because of an error of the node",
    "host-ui": "QEMU was closed",
}
"""QAPI ShutdownCause, of ends that are not the guest's."""

_UNKNOWN = "its QEMU is gone; Nomad's events of the task say how it ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestState:
    """What QEMU has said of its guest so far."""

    run_state: RunState | None = None
    """None: QEMU was never asked."""
    end: VMExit | None = None
    """The guest's own end."""
    cause: str = ""
    """QAPI ShutdownCause of the last SHUTDOWN."""
    resets: int = 0
    """Since the daemon follows it."""
    plugged_bytes: int | None = None

    def replace(self, **changes: Any) -> "GuestState":
        """Return this with other values."""
        return replace(self, **changes)


def judge_end(seen: GuestState, written: VMExit | None, at: str) -> EndView:
    """Return how a VM ended.

    Args:
        seen: What its QEMU said.
        written: What its driver wrote down, where we may read it: it knows more.
        at: RFC 3339.
    """
    known = written or seen.end
    if known is not None:
        return EndView(
            at=at,
            reason=describe(known),
            is_failure=known.is_failure,
            exit_code=known.exit_code,
        )
    return EndView(at=at, reason=_CAUSES.get(seen.cause, _UNKNOWN))


class EndedVMs:
    """The VMs that have ended lately, the oldest first."""

    def __init__(self, on_forget: Callable[[str], None]) -> None:
        """Call `on_forget` with the vm_id of each that is forgotten."""
        self._vms: dict[str, tuple[float, VMView]] = {}
        self._on_forget = on_forget

    def add(self, view: VMView, now_s: float) -> None:
        """Remember a VM; times are of any clock that goes on."""
        self._vms.pop(view.vm_id, None)
        self._vms[view.vm_id] = (now_s, view)
        self.forget_old(now_s)

    def discard(self, vm_id: str) -> None:
        """Forget a VM that runs again."""
        self._vms.pop(vm_id, None)

    def forget_old(self, now_s: float) -> None:
        """Forget those of before yesterday, and all but the last `KEPT_MAX`."""
        for vm_id, (ended_s, _) in list(self._vms.items()):
            if now_s - ended_s < KEPT_S and len(self._vms) <= KEPT_MAX:
                break
            del self._vms[vm_id]
            self._on_forget(vm_id)

    def views(self) -> dict[str, VMView]:
        """Return them by vm_id."""
        return {vm_id: view for vm_id, (_, view) in self._vms.items()}
