"""Between a viewer's socket and QEMU's VNC server: bytes, and why they end.

Owns one connection to QEMU for each viewer, so that each has its own encodings and its own pace
(`pictures`). Keys go another way and wait for no picture. Does not own who may look (`access`) nor
what passes (`rfb`).
"""

import asyncio
import logging
from pathlib import Path
from typing import NoReturn

from qemu_node.errors import VMNotFoundError
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.concurrency.flag import Flag
from qemu_node.host.sockets import connect_unix
from qemu_node.web.fleet.model import VMView
from qemu_node.web.viewer.contract import END_KNOWN_S, VM_ENDED, Viewer, VMs, why_ended
from qemu_node.web.viewer.screen.pictures import Buffer, Pictures
from qemu_node.web.viewer.screen.rfb import ClientParser, RfbError

log = logging.getLogger(__name__)

CONNECT_S = 5.0
QEMU_READS_S = 10.0
"""How long a viewer's keys may wait for a QEMU that does not read."""

SCREEN_LOST = 4503
"""Close code: QEMU's screen cannot be reached, and the VM runs. Connect again."""
NO_RFB = 4422
"""Close code: the viewer does not speak RFB as it is spoken here."""


class Relay:
    """All viewers of this node's screens."""

    def __init__(self, fleet: VMs) -> None:
        self._fleet = fleet
        self._buffer = Buffer()
        self._waiting: dict[str, Flag] = {}
        """Of VMs whose screen has gone and whose end is not known yet."""
        fleet.on_end(self._note_end)

    async def serve(self, vm_id: str, viewer: Viewer) -> None:
        """Show a VM's screen to `viewer` until either side ends it.

        Leaving it: by the viewer's own error, or by `Viewer.fail` with a close code of this module.
        """
        try:
            pictures = await self._connect(vm_id, viewer)
        except VMNotFoundError:
            viewer.fail(VM_ENDED, why_ended(self._fleet.get(vm_id)))
        except (OSError, TimeoutError) as exc:
            log.warning("no screen", extra={"vm_id": vm_id, "error": str(exc)})
            await self._fail(vm_id, viewer)
        parser = ClientParser(is_control=viewer.is_control)
        try:
            with self._fleet.viewing(vm_id):
                _ = await race(pictures.run(), _take_keys(viewer, parser, pictures))
        except RfbError as exc:
            viewer.fail(NO_RFB, str(exc))
        except (OSError, TimeoutError):
            pass
        finally:
            # Keys that the viewer holds down are let go of, too.
            pictures.close(parser.releases())
        await self._fail(vm_id, viewer)

    async def _connect(self, vm_id: str, viewer: Viewer) -> Pictures:
        path = Path(self._fleet.record(vm_id).sockets.vnc)
        async with asyncio.timeout(CONNECT_S):
            sock = await connect_unix(path)
            try:
                _, pictures = await asyncio.get_running_loop().create_unix_connection(
                    lambda: Pictures(viewer, self._buffer), sock=sock
                )
            except BaseException:
                sock.close()
                raise
        return pictures

    async def _fail(self, vm_id: str, viewer: Viewer) -> NoReturn:
        """Tell the viewer why there is no screen any more."""
        if not self._has_ended(vm_id):
            flag = self._waiting.setdefault(vm_id, Flag())
            try:
                async with asyncio.timeout(END_KNOWN_S):
                    await flag.wait()
            except TimeoutError:
                if not self._has_ended(vm_id):
                    viewer.fail(SCREEN_LOST, "QEMU's screen cannot be reached")
        viewer.fail(VM_ENDED, why_ended(self._fleet.get(vm_id)))

    def _has_ended(self, vm_id: str) -> bool:
        vm = self._fleet.get(vm_id)
        return vm is None or vm.end is not None

    def _note_end(self, vm: VMView) -> None:
        if (flag := self._waiting.pop(vm.vm_id, None)) is not None:
            flag.set()


async def _take_keys(viewer: Viewer, parser: ClientParser, pictures: Pictures) -> None:
    while True:
        data = await viewer.receive()
        if isinstance(data, str):
            raise RfbError("the viewer sends text")
        if passed := parser.feed(data):
            async with asyncio.timeout(QEMU_READS_S):
                await pictures.send(passed)
