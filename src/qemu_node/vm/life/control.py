"""How the driver reaches one running QEMU: its process, its control socket, its TAPs.

Owns the pidfd, the QMP connection and the copies of TAPs, each for as long as it is needed. Does
not own what is asked or told (`machine`), nor QEMU's start (`vm.start`).
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from qemu_node.errors import NodeError, QmpError
from qemu_node.host.concurrency.flag import Flag
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.process.pidfd import Hold, close_descriptors, copy_descriptors, send_signal
from qemu_node.net.port.tap import TUN
from qemu_node.qmp import commands as qmp_commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent, StatusInfo
from qemu_node.vm.record.record import VMRecord

log = logging.getLogger(__name__)

_RETRY_FIRST_S = 0.5
_RETRY_MAX_S = 30.0


class QemuControl:
    """One QEMU, as the driver that holds its VM reaches it."""

    def __init__(self, record: VMRecord, on_event: Callable[[QmpEvent], None]) -> None:
        self._record = record
        self._on_event = on_event
        self._hold: Hold | None = None
        """While the process is waited for."""
        self._qmp: QmpConnection | None = None
        self._news = Flag()
        self._taps: list[int] = []

    # The process

    async def wait_gone(self) -> None:
        """Return once the process is gone; it is held meanwhile, for signals."""
        while True:
            try:
                with Hold(self._record.process) as self._hold:
                    await self._hold.wait_gone()
            except OSError as exc:
                # Too many open files: its end is noticed late, not never.
                log.warning("VM is not watched", extra=self._fields(exc))
                await asyncio.sleep(_RETRY_FIRST_S)
            else:
                return
            finally:
                self._hold = None

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal, if there is still someone to get it.

        Raises:
            OSError: we have too many files open, and no hold.
        """
        if self._hold is None or not self._hold.send(signum):
            send_signal(self._record.process, signum)

    # The control socket

    def use(self, qmp: QmpConnection) -> None:
        """Go on with a connection; what happened before is found by the next query."""
        self._qmp = qmp
        qmp.listen(self._on_event)
        qmp.on_closed(self._news.set)

    async def follow(
        self,
        look: Callable[[QmpConnection, StatusInfo], Awaitable[float | None]],
        is_over: Callable[[], bool],
    ) -> None:
        """Keep a connection and look at QEMU's status whenever there is news, until `is_over`.

        Whatever goes wrong is tried again: QEMU stays when its guest has ended, so nobody else
        would notice.

        Args:
            look: Acts on the status; returns the seconds after which to look again, None: at news.
            is_over: Tells whether there is nothing more to be learned.
        """
        pause_s = _RETRY_FIRST_S
        while True:
            is_usable = False
            try:
                qmp = await self._connect()
                status = await qmp_commands.query_status(qmp)
                pause_s = _RETRY_FIRST_S
                await self._until_news(await look(qmp, status))
                is_usable = qmp.is_open
            except (NodeError, OSError) as exc:
                log.warning("control socket does not answer", extra=self._fields(exc))
            except Exception as exc:
                log.exception("control connection failed", extra=self._fields(exc))
            if is_over():
                return
            if not is_usable:
                await self.disconnect()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MAX_S)

    def look_again(self) -> None:
        """Have `follow` look at QEMU's status, or find that it is over."""
        self._news.set()

    async def _connect(self) -> QmpConnection:
        qmp = self._qmp
        if qmp is None:
            qmp = await QmpConnection.connect(Path(self._record.sockets.qmp))
            self.use(qmp)
        return qmp

    async def _until_news(self, limit_s: float | None) -> None:
        """Return at news, at the limit, or when the connection is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._news.wait()
        self._news.clear()

    async def disconnect(self) -> None:
        """Close the connection, if there is one."""
        qmp, self._qmp = self._qmp, None
        if qmp is not None:
            await qmp.close()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[QmpConnection]:
        """Give the connection that there is: a stop waits for no other.

        Raises:
            QmpError: there is none.
        """
        if self._qmp is None:
            raise QmpError("QEMU's control socket cannot be reached")
        yield self._qmp

    # TAPs

    def hold_taps(self) -> None:
        """Have the VM's TAPs open as well, so that QEMU's end is not theirs. Idempotent.

        Whoever closes a TAP last waits until the kernel has destroyed it, 16 ms and more for each:
        nobody is to wait for a VM's end so much longer.
        """
        queues = sum(port.queues for port in self._record.ports)
        if queues and not self._taps:
            try:
                self._taps = copy_descriptors(self._record.process, TUN, queues)
            except OSError as exc:
                # QEMU's end waits for the kernel then.
                log.info("TAPs are not taken over", extra=self._fields(exc))

    async def drop_taps(self) -> None:
        """Close the TAPs, which may take a while."""
        taps, self._taps = self._taps, []
        if taps:
            await to_the_end(close_descriptors, taps)

    def _fields(self, exc: Exception) -> dict[str, str]:
        return {"vm_id": self._record.vm_id, "error": str(exc)}
