"""Stopping a VM from the command line: the ladder of `vm.stop`, by way of the monitor socket.

Owns carrying out the rungs beside a driver that manages the VM, and telling how far it is. The
driver sees the end and reports it to Nomad; nothing is written here. Does not own the ladder.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qemu_node.errors import AS_ROOT, GuestAgentError, HostError, QmpError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.process.pidfd import send_signal, wait_gone
from qemu_node.inventory.access import agent_of, connect_monitor
from qemu_node.qmp import commands
from qemu_node.vm.life.stop import StopAction, StopStep, plan_stop
from qemu_node.vm.record.outcome import guest_end_of_status
from qemu_node.vm.record.record import VMRecord

_KILL_TIMEOUT_S = 30.0
_POLL_S = 1.0
_AGENT_TIMEOUT_S = 5.0
"""An agent that is there answers at once; without one the power button is next."""
_DRIVER_GRACE_S = 10.0
"""What a driver gets to end the QEMU of a guest that is off."""

_WORDS = {
    StopAction.GUEST_AGENT: "asking the guest agent to shut down",
    StopAction.ACPI: "pressing the power button",
    StopAction.QUIT: "telling QEMU to quit",
    StopAction.KILL: "killing QEMU",
}

Tell = Callable[[str], None]
"""Receives a line for each thing that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """How a VM came to its end."""

    action: StopAction | None
    """The last thing tried before it ended; None: it had ended already."""
    waits_for_driver: bool = False
    """The guest is off; its QEMU is kept for a driver, which is away, to learn how it ended."""


def plan(timeout_s: float, *, now: bool) -> tuple[StopStep, ...]:
    """Return the rungs to take: pure. With `now` the guest is not asked."""
    if now:
        # QEMU gets a moment to close its files; a timeout of zero would kill it at once.
        return (
            StopStep(action=StopAction.QUIT, at_s=0.0),
            StopStep(action=StopAction.KILL, at_s=2.0),
        )
    return plan_stop(timeout_s, has_agent=True)


class Stopper:
    """Ends one VM that another process manages."""

    def __init__(self, record: VMRecord, tell: Tell) -> None:
        self._record = record
        self._tell = tell
        self._guest_is_off = asyncio.Event()

    async def run(self, steps: Sequence[StopStep]) -> Stopped:
        """Take the rungs until the VM is gone.

        Raises:
            HostError: it survived all of them, or may not be killed by this user.
        """
        begin = asyncio.get_running_loop().time()
        action = None
        for step, following in zip(steps, (*steps[1:], None), strict=True):
            limit_s = begin + step.at_s - asyncio.get_running_loop().time()
            if (stopped := await self._over_within(limit_s, action)) is not None:
                return stopped
            action = step.action
            self._tell(_WORDS[action])
            ends_s = _KILL_TIMEOUT_S if following is None else following.at_s - step.at_s
            await self._act(action, ends_s)
        stopped = await self._over_within(_KILL_TIMEOUT_S, action)
        if stopped is None:
            raise HostError(
                f"QEMU process {self._record.pid} did not end within {_KILL_TIMEOUT_S:g} s",
                hint="it hangs in the kernel; look at dmesg",
            )
        return stopped

    async def _over_within(self, limit_s: float, action: StopAction | None) -> Stopped | None:
        """Return how it ended, None if it has not within `limit_s`."""
        is_asked = action in (StopAction.GUEST_AGENT, StopAction.ACPI)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(limit_s, 0.0)):
                if is_asked:
                    await race(wait_gone(self._record.process), self._until_guest_off())
                else:
                    await wait_gone(self._record.process)
                    return Stopped(action=action)
        if not self._guest_is_off.is_set():
            return Stopped(action=action) if await self._is_gone(0.0) else None
        if await self._is_gone(_DRIVER_GRACE_S):
            return Stopped(action=action)
        return Stopped(action=action, waits_for_driver=True)

    async def _is_gone(self, limit_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(limit_s, 0.05)):
                await wait_gone(self._record.process)
                return True
        return False

    async def _until_guest_off(self) -> None:
        """Return once QEMU says that the guest has ended; it may never be able to say so."""
        while True:
            with contextlib.suppress(QmpError):
                async with await connect_monitor(self._record) as qmp:
                    if guest_end_of_status(await commands.query_status(qmp)) is not None:
                        self._guest_is_off.set()
                        return
            await asyncio.sleep(_POLL_S)

    async def _act(self, action: StopAction, limit_s: float) -> None:
        """Take one rung; what fails is left to the next one."""
        try:
            match action:
                case StopAction.GUEST_AGENT:
                    await self._ask_agent(limit_s)
                case StopAction.ACPI:
                    await self._press_button()
                case StopAction.QUIT:
                    await self._quit()
                case StopAction.KILL:
                    self._signal(signal.SIGKILL)
        except QmpError as exc:
            self._tell(f"that did not work: {exc}")

    async def _ask_agent(self, limit_s: float) -> None:
        """Ask the guest agent; where it does not answer, press the power button right away."""
        agent = agent_of(self._record)
        try:
            await race(
                agent.shutdown(timeout_s=min(limit_s, _AGENT_TIMEOUT_S)),
                wait_gone(self._record.process),
            )
        except (GuestAgentError, HostError) as exc:
            self._tell(f"that did not work: {exc}")
            self._tell(_WORDS[StopAction.ACPI])
            await self._press_button()

    async def _press_button(self) -> None:
        async with await connect_monitor(self._record) as qmp:
            await commands.system_powerdown(qmp)

    async def _quit(self) -> None:
        """Make QEMU leave: by QMP, or by the signal that means the same to it."""
        try:
            async with await connect_monitor(self._record) as qmp:
                await commands.quit(qmp)
        except QmpError as exc:
            self._tell(f"that did not work: {exc}")
            self._signal(signal.SIGTERM)

    def _signal(self, signum: signal.Signals) -> None:
        """Send a signal to QEMU.

        Raises:
            HostError: we may not; nothing else is left to try.
        """
        try:
            send_signal(self._record.process, signum)
        except PermissionError as exc:
            raise HostError(
                f"QEMU process {self._record.pid} is another user's", hint=AS_ROOT
            ) from exc
