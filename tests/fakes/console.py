"""A console with its whole access and a few routes, in front of a fake Nomad."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import ClientSession, CookieJar, web
from aiohttp.test_utils import TestServer
from unit.web.fleet.test_model import vm

from fakes.fake_nomad import FakeNomad
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.websocket import Socket
from qemu_node.web.fleet.model import VMView
from qemu_node.web.frame.application import add_routes, make_application
from qemu_node.web.frame.route import VM_PATH, Call, Route
from qemu_node.web.metrics.scrapers import Scrapers
from qemu_node.web.service.accessparts import Access

VM = vm()
OTHER = msgspec.structs.replace(vm(), vm_id="other-0123456789ab", namespace="other")


@dataclass
class Console:
    """What a test asks and changes."""

    access: Access
    nomad: FakeNomad
    origin: str
    now: Callable[[float], None]
    """Lets so many seconds pass."""
    heard: list[bytes | str] = field(default_factory=list)
    """What came through the socket of `VM`."""
    vms: dict[str, VMView] = field(default_factory=lambda: {v.vm_id: v for v in (VM, OTHER)})

    def headers(self, **more: str) -> dict[str, str]:
        """Return what the console's own page sends with a change."""
        return {"Origin": self.origin, "X-QN": "1", "Sec-Fetch-Site": "same-origin"} | more

    async def log_in(self, browser: ClientSession, **body: Any) -> None:
        """Log in as the page does."""
        url = f"{self.origin}/api/v1/login"
        async with browser.post(url, json=body, headers=self.headers()) as reply:
            assert reply.status == 200, await reply.text()

    async def ticket(
        self, browser: ClientSession, vm_id: str = VM.vm_id, *, mode: str = "control"
    ) -> str:
        """Return a ticket for a VM's screen."""
        url = f"{self.origin}/api/v1/vms/{vm_id}/ticket"
        body = {"kind": "screen", "mode": mode}
        async with browser.post(url, json=body, headers=self.headers()) as reply:
            assert reply.status == 200, await reply.text()
            return str((await reply.json())["ticket"])


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    def pass_s(self, seconds: float) -> None:
        self.at += seconds


@contextlib.asynccontextmanager
async def running_console(
    settings: AccessSettings | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Console]:
    """Return a console on loopback, whose socket echoes; with `tls` it speaks https."""
    clock = Clock()
    async with contextlib.AsyncExitStack() as stack:
        nomad = await stack.enter_async_context(FakeNomad.running())
        api = await stack.enter_async_context(nomad.api())
        settings = settings or AccessSettings()
        access = Access(settings, api=api, by_scrape=Scrapers(settings).find, clock=clock)
        await stack.enter_async_context(access)
        app = make_application(access.checks)
        server = TestServer(app, scheme="http" if tls is None else "https")
        console = Console(access=access, nomad=nomad, origin="", now=clock.pass_s)

        async def echo(socket: Socket) -> None:
            while True:
                data = await socket.receive()
                console.heard.append(data)
                await socket.send(data)

        async def screen(call: Call) -> object:
            return await access.guard.socket(
                call.request, call.the_grant, call.the_vm, kind="screen", serve=echo
            )

        async def names(call: Call) -> list[str]:
            return [vm.vm_id for vm in call.the_grant.visible(console.vms.values())]

        async def events(call: Call) -> web.StreamResponse:
            response = web.StreamResponse()
            async with access.guard.stream(call.the_grant):
                await response.prepare(call.request)
                await response.write(b"hello")
                await asyncio.Event().wait()
            await response.write(b"bye")
            return response

        async def nothing(call: Call) -> None:
            return None

        routes = (
            *access.routes(),
            Route(
                method="GET", path="/api/v1/vms", right=Right.SEE, handler=names, summary="List."
            ),
            Route(
                method="GET",
                path=f"{VM_PATH}/screen",
                right=Right.VIEW,
                handler=screen,
                summary="Screen.",
            ),
            Route(
                method="POST",
                path=f"{VM_PATH}/reset",
                right=Right.POWER,
                handler=nothing,
                summary="Reset.",
            ),
            Route(
                method="GET",
                path="/api/v1/events",
                right=Right.SEE,
                handler=events,
                summary="Follow.",
                content_type="text/event-stream",
            ),
            Route(
                method="GET",
                path="/api/v1/node",
                right=Right.NODE,
                handler=nothing,
                summary="Node.",
            ),
            Route(
                method="GET",
                path="/metrics",
                right=Right.METRICS,
                handler=nothing,
                summary="Figures.",
            ),
        )
        add_routes(app, routes, guard=access.guard, find_vm=lambda vm_id: console.vms.get(vm_id))
        await server.start_server(ssl=tls)
        stack.push_async_callback(server.close)
        console.origin = str(server.make_url("")).rstrip("/")
        yield console


def make_browser() -> ClientSession:
    """Return something that keeps cookies, also of an address."""
    return ClientSession(cookie_jar=CookieJar(unsafe=True))
