"""All of the access of one application, built and started together.

    async with NomadApi(NomadServer(…)) as api, Access(settings, api=api) as access:
        app = make_application(access.checks)
        add_routes(app, [*access.routes(), …], guard=access.guard, find_vm=fleet.get)

`access.door.make_link()` is the secret of a link that lets one browser in: `…/#link=SECRET`.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Self

from aiohttp import web

from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.nomadapi import NomadApi
from qemu_node.web.access.guard import ByScrape, Guard, no_scrape
from qemu_node.web.access.login.door import Door
from qemu_node.web.access.session.attachments import Attachments
from qemu_node.web.access.session.sessions import Session, Sessions
from qemu_node.web.access.session.tickets import Tickets
from qemu_node.web.api.loginroutes import LoginRoutes, visitor_of
from qemu_node.web.frame.route import Route
from qemu_node.web.http.middleware import make_check


class Access:
    """Who gets in and what he may do."""

    def __init__(
        self,
        settings: AccessSettings,
        *,
        api: NomadApi | None,
        by_scrape: ByScrape = no_scrape,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Build the parts.

        Args:
            settings: Of node.toml.
            api: Of Nomad, entered by the caller; None without it.
            by_scrape: Who may collect figures without a login.
            clock: Seconds.
        """
        self.sessions = Sessions(
            idle_s=settings.idle_s,
            age_s=settings.age_s,
            on_end=self._end_attachments,
            clock=clock,
        )
        self._attachments = Attachments(self.sessions)
        self.door = Door(settings, self.sessions, api=api, clock=clock)
        self.guard = Guard(
            settings,
            sessions=self.sessions,
            tickets=Tickets(clock=clock),
            attachments=self._attachments,
            by_token=self._by_token,
            by_scrape=by_scrape,
        )
        self._routes = LoginRoutes(
            settings, guard=self.guard, door=self.door, sessions=self.sessions
        )
        self.checks = (make_check(settings.site),)
        self._stack = AsyncExitStack()

    def routes(self) -> Iterable[Route]:
        """Return the routes of login and logout."""
        return self._routes.routes()

    async def _by_token(self, token: str, request: web.Request) -> Session:
        return await self.door.by_header(token, visitor_of(request))

    def _end_attachments(self, session: Session, why: str) -> None:
        self._attachments.end_of(session, why)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._attachments)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._stack.aclose()
