"""The routes of screens."""

import math
from collections.abc import Iterable
from functools import partial

from aiohttp import web

from qemu_node.web.access.acl.rights import Right
from qemu_node.web.frame.application import has_version, send
from qemu_node.web.frame.route import VM_PATH, Call, Route
from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.contract import SocketGuard
from qemu_node.web.viewer.screen.relay import Relay
from qemu_node.web.viewer.screen.thumbnails import ENDED, Thumbnails


class ScreenRoutes:
    """What is served of the VMs' screens."""

    def __init__(self, thumbnails: Thumbnails, relay: Relay, guard: SocketGuard) -> None:
        self._thumbnails = thumbnails
        self._relay = relay
        self._guard = guard

    def routes(self) -> Iterable[Route]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path=f"{VM_PATH}/thumbnail",
                right=Right.VIEW,
                handler=self._thumbnail,
                summary="A small picture of the screen; 304 if it is the one of If-None-Match.",
                content_type="image/jpeg",
            ),
            Route(
                method="GET",
                path=f"{VM_PATH}/screenshot",
                right=Right.VIEW,
                handler=self._screenshot,
                summary="The screen as a PNG file.",
                content_type="image/png",
            ),
            Route(
                method="GET",
                path=f"{VM_PATH}/screen",
                right=Right.VIEW,
                handler=self._screen,
                summary="The screen: a WebSocket that carries RFB after a ticket.",
                content_type="application/octet-stream",
            ),
        )

    async def _thumbnail(self, call: Call) -> web.Response:
        vm = call.the_vm
        has_one = bool(call.request.if_none_match)
        thumbnail = await self._thumbnails.get(vm, has_one=has_one)
        version = thumbnail.version
        headers = {
            "ETag": f'"{version}"',
            # Asked sooner, we would answer the same.
            "Cache-Control": f"private, max-age={math.ceil(self._thumbnails.fresh_s(vm))}",
        }
        if has_version(call.request, version):
            return web.Response(status=304, headers=headers)
        return web.Response(body=thumbnail.jpeg, content_type="image/jpeg", headers=headers)

    async def _screenshot(self, call: Call) -> web.Response:
        vm = call.the_vm
        if vm.state == ENDED:
            raise Problem(
                409, "ended", "the VM has ended", hint="its last screen is its small picture"
            )
        async with self._thumbnails.screenshot(vm.vm_id) as picture:
            response = web.Response(
                body=picture,
                content_type="image/png",
                headers={
                    "Cache-Control": "no-store",
                    "Content-Disposition": f'inline; filename="{vm.vm_id}.png"',
                },
            )
            # Here, because the place is free for another picture when this one is gone.
            await send(call.request, response)
        return response

    async def _screen(self, call: Call) -> web.StreamResponse:
        vm = call.the_vm
        return await self._guard.socket(
            call.request,
            call.grant,
            vm,
            kind="screen",
            serve=partial(self._relay.serve, vm.vm_id),
        )
