"""A guest that QEMU has paused because the node's disk is full: noticed, reported, continued.

Owns when a paused guest goes on, and what is said and written down about it. Does not own the pause
itself, which is QEMU's (`werror=enospc` in `qemu.devices`), the reserve (`host.files.space`), nor
the connection and its events (`control`).

The run state is the truth, events only say when to look: an event may be lost with a driver or a
connection, and QEMU tells its state for as long as it lasts. Whoever else continues the guest, an
operator for instance, is noticed the same way.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from qemu_node.errors import HostError
from qemu_node.host.files.space import DiskSpace, read_space
from qemu_node.qmp import commands as qmp_commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import BlockIoError, QmpEvent, RunState, StatusInfo, Stop, typed
from qemu_node.units import MIB, Share
from qemu_node.vm.life.usage import DiskState, UsageMeter
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.services import Tell

log = logging.getLogger(__name__)

POLL_S = 2.0
"""How often the free space is looked at while a guest waits for it."""

ROOM_BYTES = 16 * MIB
"""What has to be free beyond the reserve, so that a guest that goes on is not paused at once."""

_CALM_S = 60.0
_FIRST_HOLD_S = 2.0
_MAX_HOLD_S = 300.0


def calls_for_a_look(event: QmpEvent) -> bool:
    """Tell whether the guest may be paused after `event`, so that its status has to be asked.

    An internal error of the accelerator is announced by STOP alone.
    """
    match typed(event):
        case Stop() | BlockIoError(action="stop"):
            return True
        case _:
            return False


def next_hold_s(hold_s: float, ran_s: float) -> float:
    """Return how long a guest that ran for `ran_s` since it was continued is not continued again.

    0 at first. A guest that is paused again at once, for example by a quota that the free space
    does not show, waits longer each time, up to five minutes.
    """
    if ran_s >= _CALM_S:
        return 0.0
    return min(max(2 * hold_s, _FIRST_HOLD_S), _MAX_HOLD_S)


def may_go_on(space: DiskSpace, reserve: Share) -> bool:
    """Tell whether there is room enough for a guest that waits for it."""
    return space.has_room(ROOM_BYTES, reserve)


class DiskGuard:
    """Continues one VM when there is disk space again, also over restarts of the driver."""

    def __init__(
        self,
        directory: VMDirectory,
        meter: UsageMeter,
        *,
        reserve: Share,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take up what `meter` knows of the VM's disk; its changes go into usage.json at once."""
        self._directory = directory
        self._meter = meter
        self._reserve = reserve
        self._tell = tell
        self._clock = clock
        self._hold_s = 0.0
        self._held_until = 0.0
        self._continued_at = -math.inf

    @property
    def is_waiting(self) -> bool:
        """Whether the guest is paused until there is room."""
        return self._meter.disk.is_full

    async def look(self, qmp: QmpConnection, status: StatusInfo) -> float | None:
        """Act on QEMU's `status`; return the seconds after which to ask again, None: at its news.

        Raises:
            QmpError: QEMU did not answer; the guest may be paused or run.
        """
        is_waiting = status.status is RunState.IO_ERROR and await qmp_commands.is_out_of_space(qmp)
        if not is_waiting:
            if self.is_waiting:
                await self._note_going_on()
            return None
        if not self.is_waiting:
            await self._note_waiting()
        if self._clock() >= self._held_until and await self._is_room():
            await qmp_commands.cont(qmp)
            await self._note_going_on()
            return None
        return POLL_S

    async def _is_room(self) -> bool:
        try:
            space = await asyncio.to_thread(read_space, self._directory.data)
        except HostError as exc:
            log.warning("free space not known", extra={"error": str(exc)})
            return False
        return may_go_on(space, self._reserve)

    async def _note_waiting(self) -> None:
        now = self._clock()
        self._hold_s = next_hold_s(self._hold_s, now - self._continued_at)
        self._held_until = now + self._hold_s
        pauses = self._meter.disk.pauses + 1
        await self._note(DiskState(is_full=True, pauses=pauses, paused_at=time.time()))
        log.warning("VM waits for disk space", extra={"vm_id": self._directory.vm_id})
        self._tell(
            "VM paused: the node's disk is full; it goes on when there is room again",
            {"vm_id": self._directory.vm_id},
        )

    async def _note_going_on(self) -> None:
        self._continued_at = self._clock()
        before = self._meter.disk
        await self._note(DiskState(is_full=False, pauses=before.pauses))
        log.info("VM goes on", extra={"vm_id": self._directory.vm_id})
        self._tell("VM goes on: the node's disk has room again", {"vm_id": self._directory.vm_id})

    async def _note(self, state: DiskState) -> None:
        """Write the state down where the node can read it, and the driver that comes after us."""
        self._meter.disk = state
        with contextlib.suppress(HostError):
            await asyncio.to_thread(self._meter.publish, self._directory.usage_json)
