"""The composition root of the console: builds its parts, and starts and stops all of them.

Owns which parts there are and in which order they begin and end: the daemon and `qemu-node run`
serve the same application. Does not own the daemon's process (`daemon`).
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web, web_response
from aiohttp.http_exceptions import HttpProcessingError

from qemu_node.config.node import NodeConfig
from qemu_node.errors import HostError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.process.users import own_group
from qemu_node.inventory.serialport import shared_sockets
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.nomadapi import NomadApi, NomadServer
from qemu_node.web.api.allroutes import Api
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.frame.application import add_routes, make_application
from qemu_node.web.frame.route import Route
from qemu_node.web.http.listener.nodenames import own_names
from qemu_node.web.http.listener.port import Port, listen
from qemu_node.web.http.middleware import Site
from qemu_node.web.http.origins import is_own_host
from qemu_node.web.metrics.metricsroutes import MetricsRoutes
from qemu_node.web.metrics.scrape import Scraper
from qemu_node.web.metrics.scrapers import Scrapers
from qemu_node.web.page.pageroutes import PageRoutes
from qemu_node.web.service.accessparts import Access
from qemu_node.web.viewer.keys.keyroutes import KeysRoutes
from qemu_node.web.viewer.keys.paste import Pastes
from qemu_node.web.viewer.screen.relay import Relay
from qemu_node.web.viewer.screen.screenroutes import ScreenRoutes
from qemu_node.web.viewer.screen.thumbnails import Thumbnails
from qemu_node.web.viewer.serial.commandline import CommandLineSockets
from qemu_node.web.viewer.serial.hub import Hubs
from qemu_node.web.viewer.serial.serialroutes import SerialRoutes
from qemu_node.web.viewer.serial.viewers import Viewers

log = logging.getLogger(__name__)

_IDLE_CONNECTION_S = 30.0
"""A connection on which no request comes is closed; so is one whose headers come slowly."""
_LOOPBACK = "127.0.0.1"
SHARED_GROUP = "qemu-node"
"""Its members may use the VMs' sockets, and ours."""
_SEED_LINES = 500
"""Of the log, before what a serial port prints now."""
_HANDLERS_S = 2.0
"""How long requests may go on when the console ends."""


# Which program answers, and not of which versions it is made, also where aiohttp answers by itself
# because it was sent no HTTP.
vars(web_response)["SERVER_SOFTWARE"] = "qemu-node"


class NodeSite(Site):
    """The names of this node as they are now: DHCP may give it another one at any time."""

    @property
    def hosts(self) -> Collection[str]:
        """All names that may be in `Host`."""
        return frozenset(super().hosts) | frozenset(own_names())


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """A console that serves."""

    fleet: Fleet
    access: Access


@contextlib.asynccontextmanager
async def serving(
    config: NodeConfig,
    *,
    settings: AccessSettings,
    nomad: NomadServer | None,
    sockets: Sequence[socket.socket],
    tls: Callable[[], ssl.SSLContext] | None,
    share_dir: Path,
) -> AsyncGenerator[Console]:
    """Serve the console while the block runs.

    Others may serve the same VMs at the same time.

    Args:
        config: Of node.toml.
        settings: Who is let in.
        nomad: Whose ACLs count; None: no Nomad.
        sockets: Of `listen`; they are closed at the end.
        tls: The certificate of now; None: plain http, for loopback alone.
        share_dir: One of `Paths.web_run_dirs`, in which serial ports are shared.

    Raises:
        NodeError: a part cannot start.
    """
    async with contextlib.AsyncExitStack() as stack:
        for sock in sockets:
            stack.callback(sock.close)
        # Who may do what is asked by connections of its own: what users ask for may be long.
        api, users_api = [
            None if nomad is None else await stack.enter_async_context(NomadApi(nomad))
            for _ in range(2)
        ]
        fleet = await stack.enter_async_context(Fleet(config.paths))
        access = Access(settings, api=api, by_scrape=Scrapers(settings).find)
        app = make_application(access.checks)
        routes = await _open_parts(
            stack, config, fleet=fleet, access=access, nomad=users_api, share_dir=share_dir
        )
        add_routes(app, routes, guard=access.guard, find_vm=fleet.get)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_server_log(),
            # No client of ours packs a body, and a bad one is an error at each place that reads it.
            auto_decompress=False,
            keepalive_timeout=_IDLE_CONNECTION_S,
            shutdown_timeout=_HANDLERS_S,
        )
        await runner.setup()
        stack.push_async_callback(_end_runner, runner)
        # Ends before the runner: sockets and streams are told, so that it waits for none of them.
        await stack.enter_async_context(access)
        assert runner.server is not None
        await stack.enter_async_context(
            Port(
                runner.server,
                sockets,
                tls=tls,
                is_own_host=lambda host: is_own_host(host, "https", names=settings.site.hosts),
            )
        )
        yield Console(fleet=fleet, access=access)


async def _open_parts(
    stack: contextlib.AsyncExitStack,
    config: NodeConfig,
    *,
    fleet: Fleet,
    access: Access,
    nomad: NomadApi | None,
    share_dir: Path,
) -> list[Route]:
    """Return the routes of all parts, which live until `stack` is closed."""
    api = await stack.enter_async_context(
        Api(fleet, guard=access.guard, nomad=nomad, config=config)
    )
    thumbnails = await stack.enter_async_context(Thumbnails(fleet))
    pastes = await stack.enter_async_context(Pastes(fleet))

    def others(vm_id: str) -> list[Path]:
        return [s for s in shared_sockets(config.paths, vm_id) if s.parent != share_dir]

    hubs = await stack.enter_async_context(Hubs(fleet, others=others))
    await stack.enter_async_context(
        CommandLineSockets(fleet, hubs, share_dir, shared_gid=own_group(SHARED_GROUP))
    )
    viewers = Viewers(fleet, hubs, partial(api.logs.read, lines=_SEED_LINES))
    routes = [
        *access.routes(),
        *api.routes(),
        *ScreenRoutes(thumbnails, Relay(fleet), access.guard).routes(),
        *KeysRoutes(fleet, pastes, access.guard).routes(),
        *SerialRoutes(viewers, access.guard).routes(),
        *MetricsRoutes(Scraper(fleet, config)).routes(),
    ]
    return [*routes, *api.document(routes), *PageRoutes().routes()]


class _OurFaults(logging.Filter):
    """Lets through what is not the fault of whoever has sent a request.

    aiohttp logs a traceback for each body that breaks off or is malformed, which strangers can have
    as often as they like.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be logged."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError | web.RequestPayloadError | OSError)


def _server_log() -> logging.Logger:
    """Return aiohttp's log of its server."""
    found = logging.getLogger("aiohttp.server")
    if not found.filters:
        found.addFilter(_OurFaults())
    return found


@contextlib.asynccontextmanager
async def serving_by_link(config: NodeConfig) -> AsyncGenerator[Callable[[], str]]:
    """Serve on loopback in clear, for whoever is given a link; give what makes such links.

    Each link lets one browser in. The port is that of node.toml if it is free, else any. Root takes
    any: the port is that of the node's daemon, which may not run at this moment.

    Raises:
        NodeError: there is no port, or a part cannot start.
    """
    try:
        sockets = listen([_LOOPBACK], 0 if os.geteuid() == 0 else config.web.port)
    except HostError:
        sockets = listen([_LOOPBACK], 0)
    url = f"http://{_LOOPBACK}:{sockets[0].getsockname()[1]}"
    settings = AccessSettings(auth="link", site=NodeSite())
    async with serving(
        config,
        settings=settings,
        nomad=None,
        sockets=sockets,
        tls=None,
        share_dir=config.paths.session_web_dir,
    ) as console:
        door = console.access.door
        yield lambda: f"{url}/#link={door.make_link()}"


async def _end_runner(runner: web.AppRunner) -> None:
    async def end() -> None:
        try:
            async with asyncio.timeout(3 * _HANDLERS_S):
                await runner.cleanup()
        except TimeoutError:
            log.warning("requests did not end in time")

    await finish(end())
