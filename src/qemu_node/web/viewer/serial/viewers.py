"""One browser on a serial port.

Owns what goes through its WebSocket. Bytes of the guest and of the viewer are binary frames, never
text: a read may end inside a character. Text frames are JSON: from us `port`, `viewers`, `dropped`
(`hub`) and `live`, which comes between what was printed before and what is printed now: a
terminal's answers to what it is shown before that are not for the guest. From the viewer:
`{"type": "input", "on": false}` hands the input over to the others.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.text import DECODE_ERRORS
from qemu_node.units import KIB
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.fleet.model import VMView
from qemu_node.web.viewer.contract import Viewer, VMs
from qemu_node.web.viewer.serial.hub import Hub, Hubs, Member

log = logging.getLogger(__name__)

LOG_S = 3.0
"""How long somebody waits for the end of the log."""
_PIECE_BYTES = 64 * KIB

BAD_FRAME = 4422
"""Close code: a text frame that means nothing here."""
_LIVE = '{"type":"live"}'


ReadLog = Callable[[VMView, Grant], Awaitable[bytes]]
"""Returns the end of a VM's log, as whoever has the grant may read it. Raises `NodeError`."""


class _InputSwitch(msgspec.Struct, tag="input", tag_field="type", forbid_unknown_fields=True):
    on: bool


class Viewers:
    """All browsers on the ports of this node."""

    def __init__(self, fleet: VMs, hubs: Hubs, read_log: ReadLog) -> None:
        self._fleet = fleet
        self._hubs = hubs
        self._read_log = read_log

    async def serve(self, vm: VMView, viewer: Viewer) -> None:
        """Show a VM's serial port to `viewer` until either side ends it.

        Leaving it: by the viewer's own error, or by `Viewer.fail` with a close code.
        """
        joined = self._hubs.joined(vm.vm_id, viewer.grant.user, may_type=viewer.is_control)
        with self._fleet.viewing(vm.vm_id), joined as (hub, member):
            _ = await race(
                _receive(hub, member, viewer),
                self._send(hub, member, vm, viewer),
                member.outbox.cut.wait(),
            )
            end = member.outbox.end
        if end is None:
            viewer.fail(BAD_FRAME, "a text frame that is none of those that are known")
        viewer.fail(*end)

    async def _send(self, hub: Hub, member: Member, vm: VMView, viewer: Viewer) -> None:
        await self._put_log(hub, vm, viewer)
        before = hub.begin(member)
        for begin in range(0, len(before), _PIECE_BYTES):
            await viewer.send(before[begin : begin + _PIECE_BYTES])
        await viewer.send(_LIVE)
        async for frame in member.outbox.frames():
            await viewer.send(frame)

    async def _put_log(self, hub: Hub, vm: VMView, viewer: Viewer) -> None:
        """Have the end of the log in the scrollback, if it can be read in time."""
        async with hub.seeding:
            if not hub.scrollback.wants_log():
                return
            try:
                async with asyncio.timeout(LOG_S):
                    hub.scrollback.put_log(await self._read_log(vm, viewer.grant))
            except (NodeError, TimeoutError) as exc:
                log.info("no log to begin with", extra={"vm_id": vm.vm_id, "error": str(exc)})


async def _receive(hub: Hub, member: Member, viewer: Viewer) -> None:
    """Take what the viewer sends; return when it is nothing that is known."""
    while True:
        frame = await viewer.receive()
        if isinstance(frame, bytes):
            hub.type(member, frame)
            continue
        try:
            switch = msgspec.json.decode(frame, type=_InputSwitch)
        except DECODE_ERRORS:
            return
        if viewer.is_control:
            hub.let_type(member, may_type=switch.on)
