"""One VM's serial port and everybody on it.

Owns that the port is open while somebody is there and a little longer, that everybody gets the same
bytes in the same order, that input of several does not get lost, and that everybody is told who is
there, who may type, and how it is with the port. Does not own how a viewer is reached (`viewers`,
`commandline`).

View-only viewers are here as well. The alternative, following the log, does not work: the serial
log is its VM's user's, and the driver erases what it has moved from there; the task's log has no
colours and comes late.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qemu_node.errors import VMNotFoundError
from qemu_node.host.concurrency.flag import Flag
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.inventory.serialport import Join, join_any
from qemu_node.web.fleet.model import VMView
from qemu_node.web.viewer.contract import END_KNOWN_S, VM_ENDED, VMs, why_ended
from qemu_node.web.viewer.serial.notices import (
    DroppedNotice,
    PortNotice,
    PortState,
    ViewersNotice,
    ViewerView,
    encode,
)
from qemu_node.web.viewer.serial.outbox import Outbox
from qemu_node.web.viewer.serial.scrollback import Scrollback
from qemu_node.web.viewer.serial.serialtap import TAKEN_POLL_S, Tap, is_taken, open_port

log = logging.getLogger(__name__)

LINGER_S = 10.0
"""How long the port stays open after the last viewer: a page that is loaded again finds the
terminal as it was."""
_RETRY_S = 1.0
_HANDOVER_S = 0.1


@dataclass(eq=False, slots=True, kw_only=True)
class Member:
    """Somebody on a port."""

    id: int
    name: str
    may_type: bool
    outbox: Outbox = field(default_factory=Outbox)
    is_live: bool = False


class Hub:
    """The port of one VM."""

    def __init__(self, vm_id: str, fleet: VMs, others: Sequence[Path] = ()) -> None:
        """Have the port of `vm_id`, by one of the sockets `others` if another console has it."""
        self.vm_id = vm_id
        self.is_direct = False
        """Whether it has QEMU's port itself."""
        self._others = others
        self.scrollback = Scrollback()
        self.seeding = asyncio.Lock()
        """Held while the log is read."""
        self.state: PortState = "opening"
        self._fleet = fleet
        self._tap = Tap(self._heard)
        self._members: dict[int, Member] = {}
        self._next_id = 1
        self._typing: int | None = None
        self._settled = Flag()
        self._end: str | None = None
        self._has_ended = Flag()

    @property
    def is_used(self) -> bool:
        """Whether somebody is there."""
        return bool(self._members)

    @property
    def has_ended(self) -> bool:
        """Whether its VM has ended. One that runs again has another port."""
        return self._end is not None

    def join(self, name: str, *, may_type: bool) -> Member:
        """Add somebody, who gets notices from now on and bytes once `begin` was called."""
        member = Member(id=self._next_id, name=name, may_type=may_type)
        self._next_id += 1
        self._members[member.id] = member
        member.outbox.tell("port", encode(PortNotice(self.state)))
        if self._end is not None:
            member.outbox.close(VM_ENDED, self._end)
        self._tell_viewers()
        return member

    def leave(self, member: Member) -> None:
        """Remove somebody."""
        del self._members[member.id]
        if self._typing == member.id:
            self._typing = None
        self._tell_viewers()

    def begin(self, member: Member) -> bytes:
        """Return what came before; `member` gets exactly what follows it."""
        member.is_live = True
        return self.scrollback.replay()

    def let_type(self, member: Member, *, may_type: bool) -> None:
        """Note that somebody does not type any more, or does again."""
        member.may_type = may_type
        self._tell_viewers()

    def type(self, member: Member, data: bytes) -> None:
        """Send what somebody types to the guest."""
        if not member.may_type or not data:
            return
        if not self._tap.type(data):
            member.outbox.tell("dropped", encode(DroppedNotice(len(data))))
        elif self._typing != member.id:
            self._typing = member.id
            self._tell_viewers()

    async def shareable(self, timeout_s: float) -> PortState:
        """Return how it is with the port for another console, which may have it of nobody else.

        One that waits for the port itself says so at once: the other may be whom it waits for.
        """
        if len(self._members) > 1 and not self.is_direct:
            return "taken"
        state = await self.settled(timeout_s)
        return state if self.is_direct else "taken"

    async def settled(self, timeout_s: float) -> PortState:
        """Return how it is with the port, once it was tried."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        return self.state

    async def run(self) -> None:
        """Have the port open until the VM ends."""
        while self._end is None:
            try:
                path = Path(self._fleet.record(self.vm_id).sockets.serial)
                taken = await is_taken(self._fleet, self.vm_id)
                # Where QEMU does not say, whoever shares the port is asked before it is entered.
                if taken is not False and await self._use_other():
                    continue
                if taken:
                    self._set_state("taken")
                    await asyncio.sleep(TAKEN_POLL_S)
                    continue
                sock = await open_port(path)
                self.is_direct = True
                await self._tap.run(sock, lambda: self._set_state("open"))
            except VMNotFoundError:
                break
            except (OSError, TimeoutError) as exc:
                log.warning("no serial port", extra={"vm_id": self.vm_id, "error": str(exc)})
            self.is_direct = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_KNOWN_S):
                    await self._has_ended.wait()
            if self._end is None:
                self._set_state("lost")
                await asyncio.sleep(_RETRY_S)
        self.end(why_ended(self._fleet.get(self.vm_id)))

    async def _use_other(self) -> bool:
        """Share the port with the console that has it, until that one ends; False if none has."""
        sock = await join_any(self._others, Join.SHARE)
        if sock is None:
            return False
        await self._tap.run(sock, lambda: self._set_state("open"))
        # QEMU may need a moment to notice that its client has gone.
        await asyncio.sleep(_HANDOVER_S)
        return True

    def end(self, reason: str) -> None:
        """Tell everybody that the VM has ended, after its last words."""
        self._has_ended.set()
        if self._end is None:
            self._end = reason
            for member in self._members.values():
                member.outbox.close(VM_ENDED, reason)
        self._settled.set()

    def note_end(self, reason: str) -> None:
        """The fleet says that the VM has ended; what QEMU wrote before may still be unread."""
        self._has_ended.set()
        if self.state != "open":
            self.end(reason)

    def _heard(self, data: bytes) -> None:
        self.scrollback.add(data)
        for member in self._members.values():
            if member.is_live:
                member.outbox.put(data)

    def _set_state(self, state: PortState) -> None:
        self.state = state
        self._settled.set()
        for member in self._members.values():
            member.outbox.tell("port", encode(PortNotice(state)))

    def _tell_viewers(self) -> None:
        viewers = [
            ViewerView(id=member.id, name=member.name, may_type=member.may_type)
            for member in self._members.values()
        ]
        for member in self._members.values():
            notice = ViewersNotice(you=member.id, viewers=viewers, typing=self._typing)
            member.outbox.tell("viewers", encode(notice))


class Hubs:
    """The ports of this node that are open; for `async with`."""

    def __init__(
        self,
        fleet: VMs,
        *,
        linger_s: float = LINGER_S,
        others: Callable[[str], Sequence[Path]] = lambda _vm_id: (),
    ) -> None:
        """Open the ports of the VMs of `fleet` when somebody comes.

        Args:
            fleet: Of this node.
            linger_s: How long a port stays open after the last viewer.
            others: vm_id → the sockets by which other consoles of this node may share its port.
        """
        self._fleet = fleet
        self._linger_s = linger_s
        self._others = others
        self._hubs: dict[str, tuple[Hub, Callable[[], object]]] = {}
        self._closing: dict[str, asyncio.TimerHandle] = {}
        self._tasks = TaskOwner("serial")
        fleet.on_end(self._note_end)

    async def __aenter__(self) -> "Hubs":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for timer in self._closing.values():
            timer.cancel()
        await self._tasks.aclose()

    def __len__(self) -> int:
        """Return how many ports are open."""
        return len(self._hubs)

    @contextlib.contextmanager
    def joined(self, vm_id: str, name: str, *, may_type: bool) -> Generator[tuple[Hub, Member]]:
        """Be on a VM's port for the block."""
        hub = self._open(vm_id)
        member = hub.join(name, may_type=may_type)
        try:
            yield hub, member
        finally:
            hub.leave(member)
            self._left(hub)

    def _open(self, vm_id: str) -> Hub:
        if (timer := self._closing.pop(vm_id, None)) is not None:
            timer.cancel()
        known = self._hubs.get(vm_id)
        if known is not None and not known[0].has_ended:
            return known[0]
        hub = Hub(vm_id, self._fleet, self._others(vm_id))
        task = self._tasks.start(self._run(hub), name=f"serial port of {vm_id}")
        self._hubs[vm_id] = (hub, task.cancel)
        return hub

    async def _run(self, hub: Hub) -> None:
        try:
            await hub.run()
        except Exception:
            hub.end("the daemon failed")
            raise
        finally:
            self._forget(hub)

    def _left(self, hub: Hub) -> None:
        if hub.is_used or not self._is_here(hub):
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._linger_s, self._close, hub)
        self._closing[hub.vm_id] = timer

    def _close(self, hub: Hub) -> None:
        self._closing.pop(hub.vm_id, None)
        if self._is_here(hub):
            _, cancel = self._hubs.pop(hub.vm_id)
            cancel()

    def _is_here(self, hub: Hub) -> bool:
        known = self._hubs.get(hub.vm_id)
        return known is not None and known[0] is hub

    def _forget(self, hub: Hub) -> None:
        if self._is_here(hub):
            del self._hubs[hub.vm_id]
            if (timer := self._closing.pop(hub.vm_id, None)) is not None:
                timer.cancel()

    def _note_end(self, vm: VMView) -> None:
        if vm.vm_id in self._hubs:
            self._hubs[vm.vm_id][0].note_end(why_ended(vm))
