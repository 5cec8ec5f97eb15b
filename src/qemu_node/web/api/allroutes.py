"""All routes of this room, and the document of all routes of the console.

async with Api(fleet, guard=access.guard, nomad=api, config=config) as api:
    routes = [*access.routes(), *api.routes(), …]
    add_routes(app, [*routes, *api.document(routes)], guard=access.guard, find_vm=fleet.get)
"""

from collections.abc import Iterable
from typing import Self

from aiohttp import web

from qemu_node.config.node import NodeConfig
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.web.access.acl.nomadapi import NomadApi
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.api.clusterroutes import ClusterRoutes
from qemu_node.web.api.eventroutes import HEARTBEAT_S, EventRoutes
from qemu_node.web.api.noderoutes import NodeRoutes
from qemu_node.web.api.nomadtasks import NomadTasks
from qemu_node.web.api.vm.agentroutes import AgentRoutes
from qemu_node.web.api.vm.logroutes import LogRoutes
from qemu_node.web.api.vm.powerroutes import PowerRoutes
from qemu_node.web.api.vm.vmroutes import VMRoutes
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.frame.application import json_response
from qemu_node.web.frame.openapi import describe
from qemu_node.web.frame.route import Call, Route, StreamGuard


class Api:
    """The handlers of this room; a context, which ends what they have begun."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        guard: StreamGuard,
        nomad: NomadApi | None,
        config: NodeConfig,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Build the handlers.

        Args:
            fleet: Of this node.
            guard: Ends streams.
            nomad: Entered by the caller; None without it.
            config: Of node.toml.
            heartbeat_s: How long a stream of events is silent at most.
        """
        self._tasks = TaskOwner("api")
        tasks = NomadTasks(nomad)
        self.logs = LogRoutes(fleet, tasks, config.paths)
        """What reads a guest's log, for other parts as well."""
        self._parts = (
            VMRoutes(fleet),
            EventRoutes(fleet, guard, heartbeat_s=heartbeat_s),
            PowerRoutes(fleet, tasks, self._tasks),
            self.logs,
            AgentRoutes(fleet),
            NodeRoutes(fleet, tasks, config),
            ClusterRoutes(tasks),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._tasks.aclose()

    def routes(self) -> list[Route]:
        """Return the table of this room."""
        return [route for part in self._parts for route in part.routes()]

    def document(self, routes: Iterable[Route]) -> list[Route]:
        """Return the route of the document of `routes`, which it is in, too."""

        async def show(_: Call) -> web.Response:
            return json_response(document)

        own = Route(
            method="GET",
            path="/api/v1/openapi.json",
            right=Right.SEE,
            handler=show,
            summary="Return this document.",
            answer=dict,
        )
        document = describe([*routes, own])
        return [own]
