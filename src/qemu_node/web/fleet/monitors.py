"""The daemon's connection to each VM's QEMU, and what QEMU says of the guest.

Owns connecting again after a loss, and one turn at a time at the command line's monitor, where the
command line is served first, so a turn is short. It is used for a VM that has no monitor for
consoles, and while another console of this node has that one (`qemu-node run` beside the daemon):
QEMU serves one client of each. Does not own what follows from a state (`views`), nor the commands
(`qmp.commands`). `query-qmp-schema` is never asked: it costs that QEMU 19 MiB (QEMU 7.2).
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import NoReturn

from qemu_node.errors import QmpError
from qemu_node.host.concurrency.flag import Flag
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpConnection, QmpTimeoutError
from qemu_node.qmp.events import QmpEvent, Shutdown, typed
from qemu_node.vm.record.outcome import guest_end_of_event, guest_end_of_status
from qemu_node.vm.record.record import VMRecord
from qemu_node.web.fleet.ends import GuestState

log = logging.getLogger(__name__)

TURN_MAX_S = 2.0
"""The longest time that the daemon keeps the command line from a VM's monitor."""

_CONNECT_TIMEOUT_S = 5.0
_RECONNECT_MIN_S, _RECONNECT_MAX_S = 0.25, 15.0
_SETTLE_S = 0.1
"""Between two looks at a guest, whatever it does."""
_TURN_INTERVAL_S = 20.0
_LOOK_AFTER = frozenset({"STOP", "RESUME", "RESET", "SUSPEND", "SUSPEND_DISK", "WAKEUP"})
_PLUGGED = "MEMORY_DEVICE_SIZE_CHANGE"

OnEvent = Callable[[QmpEvent], object]


class Monitor:
    """One VM's QEMU. `run` keeps the connection; `connection` lends it."""

    def __init__(
        self,
        record: VMRecord,
        *,
        gate: asyncio.Semaphore,
        on_change: Callable[[], object],
        on_event: OnEvent,
    ) -> None:
        """Follow the QEMU of `record`.

        Args:
            record: Of a VM that runs.
            gate: Shared by all monitors: how many connect at a time.
            on_change: Called when `state` is another one.
            on_event: Receives every event of this QEMU. It must not block.
        """
        self.state = GuestState()
        """What QEMU has said so far."""
        self._record = record
        self._gate = gate
        self._on_change = on_change
        self._on_event = on_event
        self._qmp: QmpConnection | None = None
        self._ready = Flag()
        self._look = Flag()
        self._turn = asyncio.Lock()
        self._problem = "QEMU's monitor is not connected yet"
        self._is_taken = False
        """Another console has the VM's monitor for consoles."""

    @property
    def is_own(self) -> bool:
        """Whether this console can have a monitor of the VM to itself, and so hears its events."""
        return self._record.sockets.console is not None and not self._is_taken

    @property
    def problem(self) -> str | None:
        """Why QEMU cannot be asked now; None if it can."""
        return None if self._qmp is not None or not self.is_own else self._problem

    async def run(self) -> NoReturn:
        """Follow the guest until cancelled."""
        pause_s = _RECONNECT_MIN_S
        while True:
            was_own = self.is_own
            try:
                if was_own:
                    await self._follow(Path(self._record.sockets.console or ""))
                else:
                    await self._take_turn()
                pause_s = _RECONNECT_MIN_S
            except QmpError as exc:
                self._problem = str(exc)
                log.debug("monitor lost", extra={"vm_id": self._record.vm_id, "error": str(exc)})
                pause_s = min(2 * pause_s, _RECONNECT_MAX_S)
            if was_own and not self.is_own:
                # It was found to be taken: a turn at once.
                continue
            if self.is_own:
                # Not all at once, if one cause has ended them all.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            else:
                await asyncio.sleep(_TURN_INTERVAL_S)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[QmpConnection]:
        """Lend a connection for the block, which others may use at the same time.

        At a monitor that the command line shares, a block has `TURN_MAX_S`.

        Raises:
            QmpError: there is none within two seconds, or the turn is over.
        """
        if self.is_own:
            yield await self._connected()
            return
        try:
            async with asyncio.timeout(TURN_MAX_S), self._turn:
                path = Path(self._record.sockets.monitor)
                async with await QmpConnection.connect(path, timeout_s=TURN_MAX_S) as qmp:
                    yield qmp
        except TimeoutError as exc:
            raise QmpTimeoutError(
                f"QEMU's monitor was not free, or its answer took more than {TURN_MAX_S:g} s",
                hint="another console has the VM's own monitor, or an older driver has started it",
            ) from exc

    async def _connected(self) -> QmpConnection:
        if self._qmp is not None and not self._qmp.is_open:
            self._lose()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TURN_MAX_S):
                await self._ready.wait()
        # It may be closed already, and nobody told yet.
        if self._qmp is None or not self._qmp.is_open:
            raise QmpError(f"QEMU cannot be asked: {self._problem}")
        return self._qmp

    async def _take_turn(self) -> None:
        """Ask once at the command line's monitor; also whether the own one is free by now."""
        async with self.connection() as qmp:
            await self._ask(qmp)
            if self._is_taken:
                self._is_taken = await commands.is_monitor_taken(qmp) is not False

    async def _follow(self, path: Path) -> None:
        """Hold one connection to its end."""
        async with self._gate:
            try:
                qmp = await QmpConnection.connect(
                    path, timeout_s=_CONNECT_TIMEOUT_S, on_event=self._hear
                )
            except QmpTimeoutError:
                # A QEMU that hangs gives no turn either, and is tried again.
                self._is_taken = True
                raise
        async with qmp:
            qmp.on_closed(self._lose)
            try:
                while qmp.is_open:
                    self._look.clear()
                    await self._ask(qmp)
                    self._qmp = qmp
                    self._ready.set()
                    await self._look.wait()
                    await asyncio.sleep(_SETTLE_S)
            finally:
                self._lose()

    def _lose(self) -> None:
        """Lend it to nobody any more, and have `_follow` notice."""
        self._qmp = None
        self._ready.clear()
        self._problem = "QEMU closed its monitor"
        self._look.set()

    async def _ask(self, qmp: QmpConnection) -> None:
        status = await commands.query_status(qmp)
        plugged_bytes = await commands.query_memory_size(qmp)
        self._note(
            run_state=status.status,
            end=self.state.end or guest_end_of_status(status),
            plugged_bytes=plugged_bytes,
        )

    def _hear(self, event: QmpEvent) -> None:
        end = guest_end_of_event(event)
        if end is not None and self.state.end is None:
            self._note(end=end)
        match typed(event):
            case Shutdown(reason=cause):
                self._note(cause=cause)
            case _:
                pass
        if event.name == "RESET":
            self._note(resets=self.state.resets + 1)
        if event.name in _LOOK_AFTER or event.name == _PLUGGED:
            self._look.set()
        self._on_event(event)

    def _note(self, **changes: object) -> None:
        state = self.state.replace(**changes)
        if state != self.state:
            self.state = state
            self._on_change()
