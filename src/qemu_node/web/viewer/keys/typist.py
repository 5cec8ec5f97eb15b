"""From strokes to QEMU: one call a stroke, paced, and nothing stays down.

A PS/2 keyboard keeps 16 bytes for its guest, and drops what comes then without a word; so does
QEMU's own queue behind `send-key`. All events of a stroke go in one `input-send-event`, at most
eleven bytes. 200 strokes a second arrive whole in an emulated guest, 500 do not; and where the
node has more to do, not even 100 do, because the guest's CPU waits (QEMU 7.2). So the next stroke
also waits until the guest has read the last one, wherever QEMU can tell (`uptake`).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from qemu_node.errors import NodeError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.contract import VMs
from qemu_node.web.viewer.keys.layouts import Stroke
from qemu_node.web.viewer.keys.uptake import Uptake

log = logging.getLogger(__name__)

HELD_S = 0.05
"""How long a combination stays down: firmware looks at its keyboard from time to time."""
BURST_S = 1.0
"""How long a monitor is held that the command line shares."""

_MODIFIERS = ("shift", "shift_r", "ctrl", "ctrl_r", "alt", "alt_r", "meta_l", "meta_r")


async def type_strokes(
    fleet: VMs,
    vm_id: str,
    characters: Sequence[Sequence[Stroke]],
    *,
    per_second: int,
    look: Callable[[], None],
    on_typed: Callable[[int], object],
) -> None:
    """Type `characters`; if anything goes wrong, or at a cancellation, release all modifiers.

    Args:
        fleet: Lends the VM's monitor.
        vm_id: Whose.
        characters: The strokes of each.
        per_second: Strokes in a second, at most.
        look: Called before each stroke; raises if there is to be no other.
        on_typed: Told how many characters have been typed.

    Raises:
        Problem: the guest does not run.
        NodeError: QEMU is out of reach; the last character may have arrived.
    """
    loop = asyncio.get_running_loop()
    typed, next_s = 0, loop.time()
    uptake = Uptake()
    try:
        while typed < len(characters):
            look()
            async with fleet.monitor(vm_id) as qmp:
                await check_running(qmp)
                await uptake.begin(qmp)
                until_s = loop.time() + BURST_S
                while typed < len(characters) and loop.time() < until_s:
                    for stroke in characters[typed]:
                        look()
                        await commands.input_send_event(qmp, stroke.keys)
                        await uptake.wait(qmp, len(stroke.keys))
                        # Time that was lost is not made up for: the guest would lose keys.
                        next_s = max(next_s + 1 / per_second, loop.time())
                        await asyncio.sleep(next_s - loop.time())
                    typed += 1
                    on_typed(typed)
    except BaseException:
        await finish(_release(fleet, vm_id))
        raise


async def press(fleet: VMs, vm_id: str, qcodes: Sequence[str]) -> None:
    """Press keys one after the other, hold them, and release them in reverse order.

    Raises:
        Problem: the guest does not run.
        NodeError: QEMU is out of reach.
    """
    async with fleet.monitor(vm_id) as qmp:
        await check_running(qmp)
        await finish(_press(qmp, qcodes))


async def _press(qmp: QmpConnection, qcodes: Sequence[str]) -> None:
    try:
        await commands.input_send_event(qmp, [(qcode, True) for qcode in qcodes])
        await asyncio.sleep(HELD_S)
    finally:
        await commands.input_send_event(qmp, [(qcode, False) for qcode in reversed(qcodes)])


async def check_running(qmp: QmpConnection) -> None:
    """Refuse a guest that does not run: it would get no key, and QEMU would not say so.

    Raises:
        Problem: it does not.
        QmpError: QEMU does not say.
    """
    status = await commands.query_status(qmp)
    if not status.running:
        raise Problem(409, "not-running", f"the guest does not run: QEMU says {status.status}")


async def _release(fleet: VMs, vm_id: str) -> None:
    try:
        async with fleet.monitor(vm_id) as qmp:
            await commands.input_send_event(qmp, [(key, False) for key in _MODIFIERS])
    except NodeError as exc:
        # Then there is no keyboard any more, or nobody who could tell it.
        log.info("modifiers not released", extra={"vm_id": vm_id, "error": str(exc)})
