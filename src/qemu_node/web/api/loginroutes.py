"""The routes of login, logout, session, ticket and handover.

Owns the cookie. Does not own what proves who somebody is (`door`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
from aiohttp import web

from qemu_node.web.access import audit
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.access.guard import Guard, cookie_name
from qemu_node.web.access.login.door import Door
from qemu_node.web.access.login.oidc import ATTEMPT_S, CALLBACK_PATH
from qemu_node.web.access.login.ways import Visitor, Ways
from qemu_node.web.access.session.sessions import Session, Sessions
from qemu_node.web.access.session.tickets import TICKET_S, Kind, Mode
from qemu_node.web.frame.application import json_response
from qemu_node.web.frame.route import VM_PATH, Call, Route
from qemu_node.web.http.middleware import is_from_this_node, scheme_of
from qemu_node.web.http.problems import bad_request, not_logged_in


class LoginBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of these says who somebody is."""

    token: str | None = None
    """Of Nomad."""
    ott: str | None = None
    """A one-time token of Nomad."""
    link: str | None = None
    """What follows `#link=` in the address that `qemu-node run` prints."""
    password: str | None = None
    open: Literal[True] | None = None
    """Where everybody is let in."""


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """Who is logged in."""

    name: str
    auth: str
    rights_on_node: tuple[str, ...]
    expires_at: str
    """At the latest; RFC 3339."""


class OidcBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which provider."""

    method: str
    """The name of Nomad's auth method."""


class OidcView(msgspec.Struct, frozen=True, kw_only=True):
    """Where the browser goes."""

    url: str


class TicketBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a ticket is for."""

    kind: Kind
    mode: Mode


class TicketView(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket: the client's first message on the socket, as `{"ticket": …}`, within 5 s."""

    ticket: str
    expires_in_s: float


class HandoverView(msgspec.Struct, frozen=True, kw_only=True):
    """A one-time token of Nomad for another node's console, which takes it as `#ott=…`."""

    ott: str


class LoginRoutes:
    """The handlers."""

    def __init__(
        self, settings: AccessSettings, *, guard: Guard, door: Door, sessions: Sessions
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._door = door
        self._sessions = sessions

    def routes(self) -> Iterable[Route]:
        """Return the table."""
        return (
            Route(
                method="POST",
                path="/api/v1/login",
                right=None,
                handler=self._login,
                summary="Log in; the answer sets the session's cookie.",
                body=LoginBody,
                answer=SessionView,
            ),
            Route(
                method="GET",
                path="/api/v1/login",
                right=None,
                handler=self._ways,
                summary="Say how one can log in here.",
                answer=Ways,
            ),
            Route(
                method="POST",
                path="/api/v1/login/oidc",
                right=None,
                handler=self._begin_oidc,
                summary="Begin a login through a provider that Nomad knows.",
                body=OidcBody,
                answer=OidcView,
            ),
            Route(
                method="GET",
                path=CALLBACK_PATH,
                right=None,
                handler=self._complete_oidc,
                summary="Where the provider sends the browser back to.",
                content_type="text/html",
            ),
            Route(
                method="POST",
                path="/api/v1/logout",
                right=None,
                handler=self._logout,
                summary="End the session, with all its screens and serial ports.",
            ),
            Route(
                method="GET",
                path="/api/v1/session",
                right=Right.SEE,
                handler=self._session,
                summary="Say who is logged in.",
                answer=SessionView,
            ),
            Route(
                method="POST",
                path=f"{VM_PATH}/ticket",
                right=Right.VIEW,
                handler=self._ticket,
                summary="Make a ticket for one use of a VM's screen or serial port.",
                body=TicketBody,
                answer=TicketView,
            ),
            Route(
                method="POST",
                path="/api/v1/handover",
                right=Right.SEE,
                handler=self._handover,
                summary="Make a one-time token for the console of another node.",
                answer=HandoverView,
            ),
        )

    async def _login(self, call: Call) -> web.Response:
        body: LoginBody = call.body
        given = [
            (way, value)
            for way in LoginBody.__struct_fields__
            if (value := getattr(body, way)) is not None
        ]
        if len(given) != 1:
            raise bad_request("the body has exactly one of token, ott, link, password, open")
        secret = await self._secret(*given[0], visitor_of(call.request))
        session = self._replace_session(call.request, secret)
        response = json_response(self._view(session))
        self._set_cookie(call.request, response, secret)
        return response

    def _replace_session(self, request: web.Request, secret: str) -> Session:
        """Return the new session; the one that this browser had before is not left behind."""
        if (earlier := self._guard.find_session(request)) is not None:
            self._sessions.end(earlier, "another login")
        session = self._sessions.find(secret)
        if session is None:
            raise not_logged_in()
        return session

    async def _ways(self, call: Call) -> Ways:
        return await self._door.ways(visitor_of(call.request))

    async def _begin_oidc(self, call: Call) -> web.Response:
        body: OidcBody = call.body
        visitor = visitor_of(call.request)
        url, secret = await self._door.begin_oidc(body.method, _origin_of(call.request), visitor)
        response = json_response(OidcView(url=url))
        # Lax: the browser comes back from the provider's page.
        response.set_cookie(
            _oidc_cookie_name(call.request),
            secret,
            max_age=int(ATTEMPT_S),
            path="/",
            secure=call.request.secure,
            httponly=True,
            samesite="Lax",
        )
        return response

    async def _complete_oidc(self, call: Call) -> web.Response:
        request = call.request
        token = await self._door.oidc.complete(
            request.cookies.get(_oidc_cookie_name(request), ""),
            state=request.query.get("state", ""),
            code=request.query.get("code", ""),
            issuer=request.query.get("iss", ""),
        )
        secret = await self._door.by_token(token, visitor_of(request))
        _ = self._replace_session(request, secret)
        # The browser, which comes from the provider's page, asks for ours without the cookie; what
        # the page then asks for has it.
        response = web.Response(status=303, headers={"Location": "/"})
        # A browser takes no `__Host-` cookie without Secure, and so removes none.
        response.del_cookie(_oidc_cookie_name(request), path="/", secure=request.secure)
        self._set_cookie(request, response, secret)
        return response

    async def _secret(self, way: str, value: str, visitor: Visitor) -> str:
        match way:
            case "token":
                return await self._door.by_token(value, visitor)
            case "ott":
                return await self._door.by_one_time_token(value, visitor)
            case "link":
                return self._door.by_link(value, visitor)
            case "password":
                return await self._door.by_password(value, visitor)
            case _:
                return await self._door.openly(visitor)

    async def _logout(self, call: Call) -> web.Response:
        session = self._guard.find_session(call.request)
        if session is not None:
            audit.note(
                "logout", user=session.user, session=session.id, peer=call.request.remote or ""
            )
            self._sessions.end(session, "logout")
        response = web.Response(status=204)
        name = cookie_name(call.request)
        response.del_cookie(
            name, path="/", secure=call.request.secure, httponly=True, samesite="Strict"
        )
        return response

    async def _session(self, call: Call) -> SessionView:
        return self._view(call.the_grant.session)

    async def _ticket(self, call: Call) -> TicketView:
        body: TicketBody = call.body
        ticket = self._guard.issue_ticket(
            call.the_grant, call.the_vm, kind=body.kind, mode=body.mode
        )
        return TicketView(ticket=ticket, expires_in_s=TICKET_S)

    async def _handover(self, call: Call) -> HandoverView:
        return HandoverView(ott=await self._door.make_one_time_token(call.the_grant.session))

    def _view(self, session: Session) -> SessionView:
        left_s = self._sessions.left_s(session)
        return SessionView(
            name=session.user,
            auth=session.auth,
            rights_on_node=tuple(
                right.value for right in (Right.NODE,) if session.allows(right, None)
            ),
            expires_at=(datetime.now(UTC) + timedelta(seconds=left_s)).isoformat(
                timespec="seconds"
            ),
        )

    def _set_cookie(self, request: web.Request, response: web.Response, secret: str) -> None:
        response.set_cookie(
            cookie_name(request),
            secret,
            path="/",
            secure=request.secure,
            httponly=True,
            samesite="Strict",
        )


def _origin_of(request: web.Request) -> str:
    """Return the console's address as the browser shows it: `Origin` was found to be ours."""
    origin = request.headers.get("Origin")
    return origin or f"{scheme_of(request)}://{request.headers['Host']}"


def _oidc_cookie_name(request: web.Request) -> str:
    return f"{cookie_name(request)}-oidc"


def visitor_of(request: web.Request) -> Visitor:
    """Return who has sent a request, as far as the connection tells."""
    return Visitor(address=request.remote or "", is_local=is_from_this_node(request))
