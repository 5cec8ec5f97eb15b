"""The stop ladder: guest agent → ACPI power button → QMP quit → SIGKILL.

Owns when each step is due within Nomad's kill_timeout, and what it does to guest and QEMU. Nomad's
client does not enforce that timeout on a plugin (2.0.6: 4 s given, 9 s waited), so the ladder does.
Does not own the ways to guest and QEMU: the driver (`machine`) and the command line
(`inventory.stop`) have different ones.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from qemu_node.errors import GuestAgentError, HostError, QmpError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.qga.agent import GuestAgent
from qemu_node.qmp import commands as qmp_commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.record.removal import KILL_TIMEOUT_S, UnkillableError

log = logging.getLogger(__name__)

_QUIT_GRACE_S = 2.0
"""How long QEMU may take to exit by itself; it closes its files at once, but a host may be busy."""

_AGENT_TIMEOUT_S = 5.0
"""How long an agent that may not be there is waited for before the power button is pressed."""

_STEP_MIN_S = 0.5
"""How long a step may take when the next one is due: QEMU answers within milliseconds."""


class StopAction(StrEnum):
    """What a step does; each is gentler than the next."""

    GUEST_AGENT = "guest-agent"
    ACPI = "acpi"
    QUIT = "quit"
    KILL = "kill"


_OF_QEMU = frozenset({StopAction.QUIT, StopAction.KILL})
"""Steps that end QEMU, whatever the guest does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopStep:
    """Do `action` at `at_s` seconds after the request, unless the guest is gone by then."""

    action: StopAction
    at_s: float


def plan_stop(timeout_s: float) -> tuple[StopStep, ...]:
    """Return the steps of a stop that must be over `timeout_s` seconds after the request: pure.

    The guest gets all the time but a tail of at most two seconds, a quarter of a short timeout. A
    guest whose agent takes the request has half of its time before the power button is pressed as
    well. No time at all means quit and kill.
    """
    tail_s = min(_QUIT_GRACE_S, timeout_s / 4)
    guest_s = timeout_s - tail_s
    end = plan_quit(guest_s, grace_s=tail_s / 2)
    if guest_s <= 0:
        return end
    return (
        StopStep(action=StopAction.GUEST_AGENT, at_s=0.0),
        StopStep(action=StopAction.ACPI, at_s=guest_s / 2),
        *end,
    )


def plan_quit(at_s: float = 0.0, *, grace_s: float = _QUIT_GRACE_S) -> tuple[StopStep, ...]:
    """Return the steps that end QEMU without asking the guest: pure."""
    return (
        StopStep(action=StopAction.QUIT, at_s=at_s),
        StopStep(action=StopAction.KILL, at_s=at_s + grace_s),
    )


async def descend(
    steps: Sequence[StopStep],
    *,
    pid: int,
    take: Callable[[StopAction], Awaitable[None]],
    until_over: Callable[[], Awaitable[object]],
    turn: Callable[[], AbstractAsyncContextManager[object]] = contextlib.nullcontext,
) -> None:
    """Take one step after the other until the stop is over.

    Args:
        steps: The ladder.
        pid: The QEMU.
        take: Takes a step; it is cut short when the next one is due. Its errors end the stop.
        until_over: Returns once no further step is needed.
        turn: Entered before QEMU itself is told to end, and left when the stop is over. What that
            takes is added to the time of the steps that are left.

    Raises:
        UnkillableError: half a minute after the last step it was not over.
    """
    async with contextlib.AsyncExitStack() as stack:
        await _descend(steps, pid, take, until_over, lambda: stack.enter_async_context(turn()))


async def _descend(
    steps: Sequence[StopStep],
    pid: int,
    take: Callable[[StopAction], Awaitable[None]],
    until_over: Callable[[], Awaitable[object]],
    wait_for_turn: Callable[[], Awaitable[object]],
) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    has_turn = False
    for step, following in zip(steps, (*steps[1:], None), strict=True):
        if await _returns_within(begin + step.at_s - loop.time(), until_over):
            return
        if step.action in _OF_QEMU and not has_turn:
            has_turn = True
            waits_since = loop.time()
            await wait_for_turn()
            begin += loop.time() - waits_since
            if await _returns_within(0.0, until_over):
                return
        due_s = step.at_s + KILL_TIMEOUT_S if following is None else following.at_s
        try:
            async with asyncio.timeout(max(begin + due_s - loop.time(), _STEP_MIN_S)):
                await take(step.action)
        except TimeoutError:
            log.info("stop step took too long", extra={"step": step.action.value, "pid": pid})
    if not await _returns_within(KILL_TIMEOUT_S, until_over):
        raise UnkillableError(pid)


async def _returns_within(limit_s: float, wait: Callable[[], Awaitable[object]]) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(limit_s, 0.0)):
            await wait()
            return True
    return False


async def take_step(
    action: StopAction,
    *,
    agent: GuestAgent,
    control: Callable[[], AbstractAsyncContextManager[QmpConnection]],
    send_signal: Callable[[signal.Signals], object],
    wait_gone: Callable[[], Coroutine[Any, Any, object]],
    failed: Callable[[Exception], None],
) -> None:
    """Do what `action` says.

    Args:
        action: The step.
        agent: The guest's.
        control: Gives a connection to QEMU.
        send_signal: Signals QEMU.
        wait_gone: Returns once QEMU is gone.
        failed: Is told why the step does something else instead.

    Raises:
        QmpError: QEMU did not confirm it.
    """
    match action:
        case StopAction.GUEST_AGENT:
            try:
                await race(agent.shutdown(timeout_s=_AGENT_TIMEOUT_S), wait_gone())
            except (GuestAgentError, HostError) as exc:
                failed(exc)
                async with control() as qmp:
                    await qmp_commands.system_powerdown(qmp)
        case StopAction.ACPI:
            async with control() as qmp:
                await qmp_commands.system_powerdown(qmp)
        case StopAction.QUIT:
            try:
                async with control() as qmp:
                    await qmp_commands.quit(qmp)
            except QmpError as exc:
                failed(exc)
                # The signal that means the same to QEMU.
                send_signal(signal.SIGTERM)
        case StopAction.KILL:
            send_signal(signal.SIGKILL)
