"""What guests say of themselves: name, addresses, memory. Asked rarely, and few at a time.

Owns when a guest is asked. Its agent serves one client at a time, and its driver needs it, too: a
silent one is asked more and more rarely. Does not own which answers are believed (`GuestNetwork`).
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from qemu_node.errors import QmpError
from qemu_node.host.concurrency.flag import Flag
from qemu_node.inventory.report import ask_networks
from qemu_node.inventory.state import VMSummary
from qemu_node.qmp import commands
from qemu_node.units import MIB
from qemu_node.vm.life.guestnet import GuestNetwork
from qemu_node.web.fleet.monitors import Monitor

log = logging.getLogger(__name__)

_AT_ONCE = 4
_FIRST_S = 3.0
_LOOKED_AT_S = 60.0
_IDLE_S = 300.0
_SILENT_MAX_S = 600.0
_MEMORY_POLL_S = 30
_MEASURED_POLL_S = 60
"""The same while nobody looks, and figures are collected."""
_COLLECTED_S = 300.0
"""So long after the last collection of figures another one is expected."""
_MEMORY_LOOK_S = 5.0


@dataclass(slots=True, kw_only=True)
class GuestFacts:
    """What one guest has said."""

    network: GuestNetwork | None = None
    answered_s: float | None = None
    """When its agent answered last; the loop's time."""
    memory_used_bytes: int | None = None
    memory_said_at: int | None = None
    """When the guest said so; Unix time."""
    due_s: float = 0.0
    """When its agent is asked next."""
    silences: int = 0
    """How often it has not answered, in a row."""
    poll_s: int = 0
    """How often the guest reports its memory by itself; 0: not at all."""


Ask = Callable[[VMSummary], Awaitable[GuestNetwork | None]]


def next_due(facts: GuestFacts, now_s: float, *, is_looked_at: bool) -> float:
    """Return when an agent is to be asked next: pure."""
    if facts.silences:
        return now_s + min(_FIRST_S * 2.0 ** min(facts.silences, 10), _SILENT_MAX_S)
    return now_s + (_LOOKED_AT_S if is_looked_at else _IDLE_S)


async def ask_network(vm: VMSummary) -> GuestNetwork | None:
    """Return what one guest says of its network; None if it is silent."""
    return (await ask_networks([vm])).get(vm.vm_id)


class GuestAsker:
    """Asks the guests of all VMs in turn."""

    def __init__(
        self,
        *,
        on_answer: Callable[[str], None],
        ask: Ask = ask_network,
    ) -> None:
        """Call `on_answer` with the vm_id of a guest that has said something new, or answered."""
        self._facts: dict[str, GuestFacts] = {}
        self._vms: dict[str, tuple[VMSummary, Monitor]] = {}
        self._on_answer = on_answer
        self._ask = ask
        self._is_looked_at = False
        self._collected_s = -_COLLECTED_S
        self._changed = Flag()

    def facts(self, vm_id: str) -> GuestFacts:
        """Return what a guest has said."""
        return self._facts.get(vm_id) or GuestFacts()

    def follow(self, vm: VMSummary, monitor: Monitor) -> None:
        """Ask this VM's guest from now on."""
        self._vms[vm.vm_id] = (vm, monitor)
        now_s = asyncio.get_running_loop().time()
        self._facts[vm.vm_id] = GuestFacts(due_s=now_s + _FIRST_S)
        self._changed.set()

    def forget(self, vm_id: str) -> None:
        """Ask it no more."""
        self._vms.pop(vm_id, None)
        self._facts.pop(vm_id, None)

    def look(self, *, is_looked_at: bool) -> None:
        """Note whether somebody looks at the VMs: then they are asked more often."""
        if is_looked_at and not self._is_looked_at:
            now_s = asyncio.get_running_loop().time()
            for facts in self._facts.values():
                if not facts.silences:
                    facts.due_s = min(facts.due_s, _last(facts) + _LOOKED_AT_S)
                    facts.due_s = max(facts.due_s, now_s)
        self._is_looked_at = is_looked_at
        self._changed.set()

    def note_collection(self) -> None:
        """Note that somebody collects figures: guests say how much memory they use."""
        self._collected_s = asyncio.get_running_loop().time()

    async def ask_agents(self) -> NoReturn:
        """Ask the agents, each in its time, until cancelled."""
        while True:
            self._changed.clear()
            now_s = asyncio.get_running_loop().time()
            due = sorted(
                (facts.due_s, vm_id) for vm_id, facts in self._facts.items() if facts.due_s <= now_s
            )
            await asyncio.gather(*(self._ask_agent(vm_id) for _, vm_id in due[:_AT_ONCE]))
            wait_s = min((facts.due_s for facts in self._facts.values()), default=now_s + _IDLE_S)
            wait_s -= asyncio.get_running_loop().time()
            if wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    # A pause also if something has changed: 500 VMs may appear one by one.
                    await asyncio.sleep(min(wait_s, 0.5))
                    async with asyncio.timeout(max(wait_s - 0.5, 0.0)):
                        await self._changed.wait()

    async def _ask_agent(self, vm_id: str) -> None:
        facts, known = self._facts.get(vm_id), self._vms.get(vm_id)
        if facts is None or known is None:
            # It has ended since it was chosen.
            return
        try:
            network = await self._ask(known[0])
        except Exception:
            # It is this guest's alone: the others are asked as before.
            log.exception("guest not asked", extra={"vm_id": vm_id})
            network = None
        now_s = asyncio.get_running_loop().time()
        if network is None:
            facts.silences += 1
        else:
            facts.silences = 0
            facts.network, facts.answered_s = network, now_s
        facts.due_s = next_due(facts, now_s, is_looked_at=self._is_looked_at)
        if network is not None and self._facts.get(vm_id) is facts:
            self._on_answer(vm_id)

    async def ask_memory(self) -> NoReturn:
        """While somebody looks or collects, read how much memory guests use, until cancelled."""
        asked_s = -math.inf
        while True:
            now_s = asyncio.get_running_loop().time()
            poll_s = self._memory_poll_s(now_s)
            if not poll_s or now_s - asked_s >= poll_s:
                asked_s = now_s if poll_s else -math.inf
                await self._ask_memory_of_all(poll_s)
            await asyncio.sleep(min(_MEMORY_LOOK_S, poll_s or _MEMORY_LOOK_S))

    def _memory_poll_s(self, now_s: float) -> int:
        """Return how often guests are to say how much they use; 0: nobody wants to know."""
        if self._is_looked_at:
            return _MEMORY_POLL_S
        return _MEASURED_POLL_S if now_s - self._collected_s < _COLLECTED_S else 0

    async def _ask_memory_of_all(self, poll_s: int) -> None:
        for vm_id, (_, monitor) in list(self._vms.items()):
            facts = self._facts.get(vm_id)
            if facts is None or not monitor.is_own or monitor.problem is not None:
                continue
            if poll_s or facts.poll_s:
                try:
                    await self._ask_balloon(monitor, facts, vm_id, poll_s)
                except QmpError:
                    pass
                except Exception:
                    log.exception("guest's memory not asked", extra={"vm_id": vm_id})

    async def _ask_balloon(
        self, monitor: Monitor, facts: GuestFacts, vm_id: str, poll_s: int
    ) -> None:
        async with monitor.connection() as qmp:
            if facts.poll_s != poll_s:
                await commands.poll_memory_use(qmp, poll_s)
                facts.poll_s = poll_s
            use = await commands.query_memory_use(qmp) if poll_s else None
        if use is None:
            return
        facts.memory_said_at = use.said_at
        if time.time() - use.said_at > 3 * poll_s:
            # Another console has told it to be silent, or it hangs: it is told again.
            facts.poll_s = 0
        # Whole MiB: a guest that is idle is not told of again and again.
        used_bytes = use.used_bytes - use.used_bytes % MIB
        if used_bytes != facts.memory_used_bytes:
            facts.memory_used_bytes = used_bytes
            self._on_answer(vm_id)


def _last(facts: GuestFacts) -> float:
    return facts.answered_s if facts.answered_s is not None else 0.0
