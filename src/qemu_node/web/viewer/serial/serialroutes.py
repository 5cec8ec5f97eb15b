"""The route of serial ports."""

from collections.abc import Iterable
from functools import partial

from aiohttp import web

from qemu_node.web.access.acl.rights import Right
from qemu_node.web.frame.route import VM_PATH, Call, Route
from qemu_node.web.viewer.contract import SocketGuard
from qemu_node.web.viewer.serial.viewers import Viewers


class SerialRoutes:
    """What is served of the VMs' serial ports."""

    def __init__(self, viewers: Viewers, guard: SocketGuard) -> None:
        self._viewers = viewers
        self._guard = guard

    def routes(self) -> Iterable[Route]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path=f"{VM_PATH}/serial",
                right=Right.VIEW,
                handler=self._serial,
                summary="The serial port: a WebSocket of its bytes, after a ticket.",
                content_type="application/octet-stream",
            ),
        )

    async def _serial(self, call: Call) -> web.StreamResponse:
        vm = call.the_vm
        return await self._guard.socket(
            call.request,
            call.grant,
            vm,
            kind="serial",
            serve=partial(self._viewers.serve, vm),
        )
