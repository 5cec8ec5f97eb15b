"""One VM that runs, with all that the daemon holds of it.

Owns its pidfd, by which its end is seen, and its monitor. Does not own the files that it is known
by (`follow`), nor what becomes of it after its end (`ends`).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from qemu_node.config.node import Paths
from qemu_node.host.process.identity import ProcessId, age_s, is_alive
from qemu_node.host.process.pidfd import Hold
from qemu_node.inventory.state import VMStatus, VMSummary
from qemu_node.qmp.events import QmpEvent
from qemu_node.vm.life.usage import Usage, UsageMeter
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.record import VMRecord
from qemu_node.web.fleet.ends import judge_end
from qemu_node.web.fleet.guests import GuestFacts
from qemu_node.web.fleet.model import EndView, VMView
from qemu_node.web.fleet.monitors import Monitor
from qemu_node.web.fleet.views import settled_cpu, state_of, view_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class VMFigures:
    """What is known of a VM that runs, with the times of what was not read just now.

    Times are Unix times, rounded; None: never.
    """

    view: VMView
    process: ProcessId
    nics: tuple[str | None, ...]
    """The TAP of each NIC; None in user mode."""
    started_at: float
    usage: Usage | None
    """What its driver wrote down last, and when."""
    agent_answered_at: float | None
    memory_said_at: float | None
    """When the guest said how much memory it uses."""
    is_monitor_open: bool
    """Whether QEMU can be asked."""


class LiveVM:
    """A VM whose QEMU runs."""

    def __init__(
        self,
        record: VMRecord,
        *,
        paths: Paths,
        gate: asyncio.Semaphore,
        on_change: Callable[["LiveVM"], object],
        on_event: Callable[[str, QmpEvent], object],
        on_gone: Callable[["LiveVM"], object],
    ) -> None:
        """Follow the VM of `record`; the callbacks are told of what QEMU says, and of its end."""
        self.record = record
        self.summary = VMSummary(vm_id=record.vm_id, status=VMStatus.RUNNING, record=record)
        self.viewers = 0
        self.thumbnail = ""
        self.stop_error = ""
        self.following: asyncio.Task[None] | None = None
        self.monitor = Monitor(
            record,
            gate=gate,
            on_change=lambda: on_change(self),
            on_event=lambda event: on_event(record.vm_id, event),
        )
        self.directory = VMDirectory.of(paths, record.vm_id)
        self._meter = UsageMeter(record.process)
        # The first call begins the measurement.
        self._meter.cpu_share()
        self._cpu_pct: float | None = None
        self._ended_at = ""
        self._loop = asyncio.get_running_loop()
        self._hold: Hold | None = None
        try:
            self._hold = Hold(record.process)
        except OSError as exc:
            # Its end is noticed by the regular check.
            log.warning("VM's process not watched", extra={"error": str(exc)})
        if self._hold is not None and self._hold.pidfd is not None:
            self._loop.add_reader(self._hold.pidfd, on_gone, self)

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return is_alive(self.record.process)

    def uptime_s(self) -> float:
        """Return how long its QEMU runs."""
        return round(age_s(self.record.process), 1)

    def measure(self) -> bool:
        """Measure its CPU use since the last call; tell whether it shows another one."""
        before = self._cpu_pct
        self._cpu_pct = settled_cpu(before, self._meter.cpu_share().total_pct)
        return self._cpu_pct != before

    def view(self, facts: GuestFacts) -> VMView:
        """Return how it is now, without its ages."""
        state = self.monitor.state
        word = state_of(self.summary.status, state.run_state)
        return view_of(
            self.record,
            self.summary,
            state,
            network=facts.network,
            memory_used_bytes=facts.memory_used_bytes,
            cpu_pct=self._cpu_pct if self._cpu_pct is not None else self._first_cpu(),
            thumbnail=self.thumbnail,
            stop_error=self.stop_error,
            viewers=self.viewers,
            end=self.end() if word == VMStatus.ENDED else None,
        )

    def figures(self, view: VMView, facts: GuestFacts) -> VMFigures:
        """Return its figures; `view` is how it is."""
        now = time.time()
        answered_s = facts.answered_s
        return VMFigures(
            view=view,
            process=self.record.process,
            nics=tuple(nic.ifname for nic in self.record.nics),
            started_at=round(now - age_s(self.record.process)),
            usage=self.summary.usage,
            agent_answered_at=None
            if answered_s is None
            else round(now - (self._loop.time() - answered_s)),
            memory_said_at=facts.memory_said_at,
            is_monitor_open=self.monitor.problem is None,
        )

    def ended_view(self, facts: GuestFacts) -> VMView:
        """Return how it is remembered now that its QEMU is gone."""
        return view_of(
            self.record,
            VMSummary(vm_id=self.record.vm_id, status=VMStatus.ENDED, record=self.record),
            self.monitor.state,
            network=facts.network,
            thumbnail=self.thumbnail,
            end=self.end(),
        )

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self.following is not None:
            self.following.cancel()
        if self._hold is not None:
            if self._hold.pidfd is not None:
                self._loop.remove_reader(self._hold.pidfd)
            self._hold.__exit__(None, None, None)

    def _first_cpu(self) -> float | None:
        cpu_pct = self.summary.cpu_pct
        return None if cpu_pct is None else round(cpu_pct, 1)

    def end(self) -> EndView:
        """Return how it ended, as far as that is known by now."""
        self._ended_at = self._ended_at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return judge_end(self.monitor.state, self.directory.read_exit(), self._ended_at)
