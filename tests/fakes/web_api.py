"""The API of the console in front of VMs of a test, with a guard that has the test's rights."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from fakes.web_sessions import make_session
from qemu_node.config.node import NodeConfig, Paths
from qemu_node.inventory.state import VMSummary
from qemu_node.vm.life.guestnet import GuestNetwork
from qemu_node.web.access.acl.nomadacl import MANAGEMENT, Acl
from qemu_node.web.access.acl.nomadapi import NomadApi, NomadServer
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.api.allroutes import Api
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.fleet.model import VMView
from qemu_node.web.frame.application import add_routes, make_application
from qemu_node.web.frame.route import Route
from qemu_node.web.http.problems import forbidden, no_such_vm, not_logged_in

READER = Acl(namespaces={"default": frozenset({"list-jobs", "read-job"})})
"""May see the VMs of the namespace `default`, and do nothing with them."""


@dataclass
class FakeGuard:
    """Lets everybody in, with one session whose rights the test sets."""

    needed_token: str | None = None
    """The token that a request must have; None: none."""

    acl: Acl = MANAGEMENT
    token: str | None = None
    streams: list[Any] = field(default_factory=list)
    """Of each stream the time limit that ends it."""

    def __post_init__(self) -> None:
        self.session = make_session(self.acl)

    async def grant(
        self, request: web.Request, right: Right, vm: VMView | None, *, is_change: bool
    ) -> Grant:
        if self.needed_token not in (None, request.headers.get("X-Nomad-Token")):
            raise not_logged_in()
        self.session.acl, self.session.token = self.acl, self.token
        grant = Grant(user="me", right=right, session=self.session)
        if vm is not None and not grant.allows(Right.SEE, vm):
            raise no_such_vm(vm.vm_id)
        if (right is Right.NODE or vm is not None) and not grant.allows(right, vm):
            raise forbidden("no")
        return grant

    @contextlib.asynccontextmanager
    async def stream(self, grant: Grant) -> AsyncIterator[None]:
        limit = asyncio.timeout(None)
        self.streams.append(limit)
        with contextlib.suppress(TimeoutError):
            async with limit:
                yield


@dataclass
class FakeTasks:
    """Nomad, as far as the API asks it about tasks."""

    asked: list[tuple[str, str, str, Any]] = field(default_factory=list)
    """Method, path with query, token and body."""
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """By path: status, and JSON or bytes."""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        token = request.headers.get("X-Nomad-Token", "")
        self.asked.append((request.method, request.path_qs, token, body))
        status, answer = self.answers.get(request.path, (404, b"not found"))
        data = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
        return web.Response(status=status, body=data)


@dataclass
class ApiUnderTest:
    """What a test asks."""

    client: "TestClient[Any, Any]"
    fleet: Fleet
    guard: FakeGuard
    nomad: FakeTasks
    routes: list[Route]

    async def get(self, path: str, status: int = 200) -> Any:
        """Return the JSON of a path."""
        async with self.client.get(path) as reply:
            assert reply.status == status, await reply.text()
            return await reply.json()

    async def post(self, path: str, body: object = None, status: int = 200) -> Any:
        """Return the JSON of a change."""
        async with self.client.post(path, json=body) as reply:
            assert reply.status == status, await reply.text()
            return await reply.json()


async def silent(_: VMSummary) -> GuestNetwork | None:
    """Be a guest without an agent."""
    return None


@contextlib.asynccontextmanager
async def running_api(
    paths: Paths,
    *,
    has_nomad: bool = False,
    nomad_address: str | None = None,
    heartbeat_s: float = 15.0,
) -> AsyncGenerator[ApiUnderTest]:
    """Serve the API on loopback, over the VMs below `paths`; with a fake Nomad, or a real one."""
    guard, nomad = FakeGuard(), FakeTasks()
    async with contextlib.AsyncExitStack() as stack:
        api = None
        if has_nomad:
            agent = web.Application()
            agent.router.add_route("*", "/{tail:.*}", nomad.answer)
            server = await stack.enter_async_context(TestServer(agent))
            nomad_address = str(server.make_url("")).rstrip("/")
        if nomad_address is not None:
            api = await stack.enter_async_context(NomadApi(NomadServer(address=nomad_address)))
        fleet = await stack.enter_async_context(Fleet(paths, ask=silent))
        served = await stack.enter_async_context(
            Api(
                fleet,
                guard=guard,
                nomad=api,
                config=NodeConfig(paths=paths),
                heartbeat_s=heartbeat_s,
            )
        )
        app = make_application()
        routes = served.routes()
        routes += served.document(routes)
        add_routes(app, routes, guard=guard, find_vm=fleet.get)
        client = await stack.enter_async_context(TestClient(TestServer(app)))
        yield ApiUnderTest(client=client, fleet=fleet, guard=guard, nomad=nomad, routes=routes)
