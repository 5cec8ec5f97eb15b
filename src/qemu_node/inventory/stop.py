"""Stopping a VM beside the driver that manages it: the stop ladder, by way of the monitor.

Owns when such a stop is over, and telling how far it is. The driver sees the end and reports it to
Nomad; nothing is written here. Does not own the ladder (`vm.life.stopladder`).
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from qemu_node.errors import QmpError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.process.pidfd import send_signal, wait_gone
from qemu_node.inventory.access import agent_of, another_users, connect_monitor
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.life.stopladder import StopAction, StopStep, descend, take_step
from qemu_node.vm.record.outcome import guest_end_of_status
from qemu_node.vm.record.record import VMRecord

_POLL_S = 1.0
_DRIVER_GRACE_S = 10.0
"""How long a driver may take to end the QEMU of a guest that is off."""

_WORDS = {
    StopAction.GUEST_AGENT: "asking the guest agent to shut down",
    StopAction.ACPI: "pressing the power button",
    StopAction.QUIT: "telling QEMU to quit",
    StopAction.KILL: "killing QEMU",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """How a VM came to its end."""

    action: StopAction | None
    """The last thing tried before it ended; None: it had ended already."""
    waits_for_driver: bool = False
    """The guest is off; its QEMU is kept, so that a driver can learn how it ended."""


class Stopper:
    """Ends one VM that another process manages."""

    def __init__(self, record: VMRecord, tell: Callable[[str], None]) -> None:
        """Stop the VM of `record`; `tell` receives a line for each thing that is tried."""
        self._record = record
        self._tell = tell
        self._action: StopAction | None = None

    async def run(self, steps: Sequence[StopStep]) -> Stopped:
        """Take the steps until the VM is gone.

        Raises:
            HostError: it survived all of them, or may not be killed by this user.
        """
        await descend(
            steps, pid=self._record.pid, take=self._take_step, until_over=self._until_over
        )
        is_gone = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRIVER_GRACE_S):
                await self._wait_gone()
                is_gone = True
        return Stopped(action=self._action, waits_for_driver=not is_gone)

    async def _until_over(self) -> None:
        """Return once QEMU is gone or, where the guest was asked, the guest has ended."""
        if self._action in (StopAction.GUEST_AGENT, StopAction.ACPI):
            await race(self._wait_gone(), self._until_guest_ended())
        else:
            await self._wait_gone()

    async def _wait_gone(self) -> None:
        await wait_gone(self._record.process)

    async def _until_guest_ended(self) -> None:
        """Return once QEMU says that the guest has ended; it may never be able to say so."""
        while True:
            with contextlib.suppress(QmpError):
                async with self._monitor() as qmp:
                    if guest_end_of_status(await commands.query_status(qmp)) is not None:
                        return
            await asyncio.sleep(_POLL_S)

    async def _take_step(self, action: StopAction) -> None:
        """Take a step of the ladder; what fails is left to the next one."""
        self._action = action
        self._tell(_WORDS[action])
        try:
            await take_step(
                action,
                agent=agent_of(self._record),
                control=self._monitor,
                send_signal=self._send_signal,
                wait_gone=self._wait_gone,
                failed=self._tell_what_comes_instead,
            )
        except QmpError as exc:
            self._tell(f"that did not work: {exc}")

    def _tell_what_comes_instead(self, exc: Exception) -> None:
        self._tell(f"that did not work: {exc}")
        if self._action is StopAction.GUEST_AGENT:
            self._tell(_WORDS[StopAction.ACPI])

    @contextlib.asynccontextmanager
    async def _monitor(self) -> AsyncGenerator[QmpConnection]:
        async with await connect_monitor(self._record) as qmp:
            yield qmp

    def _send_signal(self, signum: signal.Signals) -> None:
        """Send a signal to QEMU."""
        try:
            send_signal(self._record.process, signum)
        except PermissionError as exc:
            raise another_users(self._record.pid) from exc
