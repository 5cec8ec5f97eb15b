"""The console with made-up VMs: access, fleet and most of the API are the real ones.

Made up are the VMs, their pictures, screens (`FakeScreen`), serial ports (an echo), logs, pastes.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from browser.fake_rfb import FakeScreen
from browser.fake_vms import jpeg_of, make_vms

from qemu_node.config.node import NodeConfig, Paths
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.websocket import Socket
from qemu_node.web.api.allroutes import Api
from qemu_node.web.api.clusterroutes import ClusterView, NodeRow, VMRow
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.fleet.model import EndView, VMView
from qemu_node.web.frame.application import add_routes, make_application
from qemu_node.web.frame.route import VM_PATH, Call, Route
from qemu_node.web.page.pageroutes import PageRoutes
from qemu_node.web.service.accessparts import Access
from qemu_node.web.viewer.keys.paste import PasteBody, PasteState, PasteView

_MADE_UP = ("/log", "/events", "/api/v1/cluster", "/power-button", "/reset", "/stop", "/restart")
LOG = (
    "[    0.000000] Linux version 6.12.48 (debian-kernel)\r\n"
    "[    0.004211] Command line: console=ttyS0\r\n"
    "\x1b[0;32m[  OK  ]\x1b[0m Reached target \x1b[1mMulti-User System\x1b[0m.\r\n"
    "\x1b[6n\x1b[c<img src=x onerror=alert(1)>\r\n"
    "\r\nguest login: "
)


@dataclass
class FakeConsole:
    """What a test sees and does."""

    access: Access
    fleet: Fleet
    port: int = 0
    screens: list[FakeScreen] = field(default_factory=list)
    typed: list[bytes] = field(default_factory=list)
    """What came to serial ports."""
    thumbnails: Counter[str] = field(default_factory=Counter)
    """How often each VM's picture was asked for."""
    fresh_s: dict[str, int] = field(default_factory=dict)
    """How long each VM's picture is said to be fresh; 0 for those that are not named."""
    sent: list[str] = field(default_factory=list)
    """VMs whose picture was sent whole."""
    pressed: list[str] = field(default_factory=list)
    """Buttons: `reset web-…`."""
    pastes: dict[str, PasteView] = field(default_factory=dict)
    pasted: list[str] = field(default_factory=list)
    paste_step: int = 1000

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def login_url(self) -> str:
        """With a link that counts once."""
        return f"{self.url}#link={self.access.door.make_link()}"

    def vms(self) -> list[VMView]:
        """Return all VMs."""
        return self.fleet.all()

    def first(self, state: str = "running", system: str = "linux") -> VMView:
        """Return the first VM in a state."""
        return next(vm for vm in self.vms() if vm.state == state and vm.os == system)

    def change(self, vm_id: str, **members: Any) -> None:
        """Change a VM."""
        view = self.fleet.get(vm_id)
        assert view is not None
        self.fleet._board.put(msgspec.structs.replace(view, **members))

    def end(self, vm_id: str, reason: str) -> None:
        """Let a VM end."""
        end = EndView(at="2026-11-30T20:00:00Z", reason=reason, is_failure=True, exit_code=1)
        self.change(vm_id, state="ended", end=end, cpu_pct=None, uptime_s=None)

    def routes(self) -> Iterable[Route]:
        """Return the routes of what is made up."""

        def of_vm(method: Any, rest: str, right: Right, handler: Any, body: Any = None) -> Route:
            return Route(
                method=method,
                path=f"{VM_PATH}/{rest}",
                right=right,
                handler=handler,
                summary="Made up.",
                body=body,
            )

        for button in ("power-button", "reset", "stop", "restart"):
            yield of_vm("POST", button, Right.POWER, self._press)
        yield of_vm("GET", "thumbnail", Right.VIEW, self._thumbnail)
        yield of_vm("GET", "log", Right.VIEW, self._log)
        yield of_vm("GET", "events", Right.SEE, self._events)
        yield of_vm("GET", "screen", Right.VIEW, self._screen)
        yield of_vm("GET", "serial", Right.VIEW, self._serial)
        yield of_vm("POST", "paste", Right.CONTROL, self._paste, PasteBody)
        yield of_vm("GET", "paste/{paste_id}", Right.CONTROL, self._progress)
        yield of_vm("DELETE", "paste/{paste_id}", Right.CONTROL, self._abort)
        for path, handler in (
            ("/api/v1/cluster", self._cluster),
            ("/api/v1/keyboard", self._keyboard),
        ):
            yield Route(method="GET", path=path, right=Right.SEE, handler=handler, summary="As is.")

    async def _press(self, call: Call) -> dict[str, str]:
        self.pressed.append(f"{call.request.path.rpartition('/')[2]} {call.the_vm.vm_id}")
        return {"message": "it was asked for"}

    async def _thumbnail(self, call: Call) -> web.Response:
        vm = call.the_vm
        self.thumbnails[vm.vm_id] += 1
        headers = {
            "ETag": f'"{vm.thumbnail}"',
            "Cache-Control": f"private, max-age={self.fresh_s.get(vm.vm_id, 0)}",
        }
        if any(tag.value == vm.thumbnail for tag in call.request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        self.sent.append(vm.vm_id)
        return web.Response(body=jpeg_of(vm), content_type="image/jpeg", headers=headers)

    async def _log(self, _call: Call) -> web.Response:
        return web.Response(text=LOG)

    async def _events(self, _call: Call) -> object:
        event = {"at": "2026-11-28T06:30:02Z", "kind": "Started", "message": "Task started"}
        return {"state": "running", "restarts": 0, "events": [event]}

    async def _screen(self, call: Call) -> web.StreamResponse:
        async def serve(socket: Socket) -> None:
            screen = FakeScreen(socket)
            self.screens.append(screen)
            with self.fleet.viewing(socket.vm.vm_id):
                await screen.serve()

        guard = self.access.guard
        return await guard.socket(
            call.request, call.the_grant, call.the_vm, kind="screen", serve=serve
        )

    async def _serial(self, call: Call) -> web.StreamResponse:
        async def serve(socket: Socket) -> None:
            await socket.send(LOG.encode())
            await socket.send('{"type":"live"}')
            # A character in two pieces.
            await socket.send(b"\r\nline drawing: \xe2")
            await asyncio.sleep(0.05)
            await socket.send(b"\x94\x80\xe2\x94\x80 # ")
            while True:
                data = await socket.receive()
                if isinstance(data, bytes):
                    self.typed.append(data)
                    await socket.send(data.replace(b"\r", b"\r\n# "))

        guard = self.access.guard
        return await guard.socket(
            call.request, call.the_grant, call.the_vm, kind="serial", serve=serve
        )

    async def _paste(self, call: Call) -> PasteView:
        body: PasteBody = call.body
        self.pasted.append(body.text)
        view = PasteView(id="1", state=PasteState.TYPING, typed=0, characters=len(body.text))
        self.pastes["1"] = view
        return view

    async def _progress(self, _call: Call) -> PasteView:
        view = self.pastes["1"]
        if view.state is PasteState.TYPING:
            typed = min(view.typed + self.paste_step, view.characters)
            state = PasteState.DONE if typed == view.characters else PasteState.TYPING
            view = msgspec.structs.replace(view, typed=typed, state=state)
            self.pastes["1"] = view
        return view

    async def _abort(self, _call: Call) -> PasteView:
        view = msgspec.structs.replace(self.pastes["1"], state=PasteState.ABORTED)
        self.pastes["1"] = view
        return view

    async def _keyboard(self, _call: Call) -> object:
        names = {"us": "English (US)", "gb": "English (UK)", "de": "German", "fi": "Finnish"}
        return {"layouts": [{"name": n, "title": t} for n, t in names.items()], "keys": []}

    async def _cluster(self, _call: Call) -> ClusterView:
        nodes = [
            NodeRow(
                id=str(number),
                name=f"node-{number}",
                console=f"https://node-{number}.example:5800",
                status="ready" if number != 3 else "down",
                is_healthy=number != 3,
                is_eligible=True,
            )
            for number in range(1, 5)
        ]
        vms = [
            VMRow(
                alloc_id=f"other-{number}",
                name=f"web.frontend[{number}]",
                namespace="default",
                job="web",
                group="frontend",
                node_id=str(number % 4 + 1),
                node=f"node-{number % 4 + 1}",
                state="running",
            )
            for number in range(9)
        ]
        return ClusterView(nodes=nodes, vms=vms)


@contextlib.asynccontextmanager
async def running_console(
    directory: Path, *, vms: int, port: int = 0
) -> AsyncGenerator[FakeConsole]:
    """Serve a console on loopback, whose VMs are made up."""
    config = NodeConfig(paths=Paths(run=str(directory / "r"), data=str(directory / "d")))
    async with contextlib.AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(Fleet(config.paths))
        for vm in make_vms(vms):
            fleet._board.put(vm)
        access = Access(AccessSettings(auth="link"), api=None)
        api = Api(fleet, guard=access.guard, nomad=None, config=config, heartbeat_s=1)
        await stack.enter_async_context(api)
        console = FakeConsole(access=access, fleet=fleet)
        app = make_application(access.checks)
        real = [
            route
            for route in api.routes()
            if not route.path.endswith(_MADE_UP) or route.path == "/api/v1/events"
        ]
        routes = [*access.routes(), *real, *console.routes(), *PageRoutes().routes()]
        add_routes(app, routes, guard=access.guard, find_vm=fleet.get)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await stack.enter_async_context(access)
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        console.port = runner.addresses[0][1]
        yield console
