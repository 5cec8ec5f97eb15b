"""Judges every request that is not open: who it is, and what he may do.

For handlers of other parts:

- A plain handler needs only `Route.right`: `call.grant` says who it is. `call.grant.visible`
  chooses from a list, `call.grant.allows` asks for another right, `call.grant.token` is his token.
- A stream (SSE) runs in `async with guard.stream(call.grant):` once its response is prepared. The
  block is cancelled when the session ends; then it is left as if it had ended by itself.
- A screen or a serial port is a route with `right=Right.VIEW` whose handler returns

      await guard.socket(call.request, call.grant, call.the_vm, kind="screen", serve=relay)

  `relay(socket)` is called after the client's first message, a good ticket, was answered with
  `ok`. It asks `socket.is_control`, awaits `socket.send` and `socket.receive`.
  It is cancelled when the session ends; its errors become a close code.

Does not own how somebody becomes a session (`login`), nor what a page of others may send at all
(`http.middleware`, which has judged every request before).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
from aiohttp import web

from qemu_node.text import DECODE_ERRORS, printable
from qemu_node.web.access import audit
from qemu_node.web.access.access_settings import AccessSettings
from qemu_node.web.access.acl.rights import CAPABILITIES, OF_NODE, Right
from qemu_node.web.access.session.attachments import RIGHT_LOST, Attachment, Attachments
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.access.session.sessions import Session, Sessions
from qemu_node.web.access.session.tickets import Kind, Mode, Tickets
from qemu_node.web.access.session.websocket import FRAME_MAX_BYTES, PING_S, Socket
from qemu_node.web.fleet.model import VMView
from qemu_node.web.http.middleware import is_from_own_page, is_from_this_node, token_of
from qemu_node.web.http.origins import is_cross_site
from qemu_node.web.http.problems import Problem, forbidden, no_such_vm, not_logged_in

FIRST_MESSAGE_S = 5.0
BAD_TICKET = 4400
"""Close code: the first message was no ticket that is good here."""
RIGHT_OF_MODE: dict[Mode, Right] = {"view": Right.VIEW, "control": Right.CONTROL}

_NO_SCRAPE = (
    "give Prometheus a token (`authorization: { credentials_file: … }`): one of Nomad with "
    '`node { policy = "read" }`, or that of web.metrics_token_file in node.toml; on the node '
    "itself https://localhost needs none"
)

ByToken = Callable[[str, web.Request], Awaitable[Session]]
"""Returns the session of a token in a header, of Nomad. Raises `Problem`."""

ByScrape = Callable[[web.Request], Awaitable[Session | None]]
"""Returns the session of whoever may collect figures without a login, and may do nothing else."""


async def no_scrape(_: web.Request) -> None:
    """Let nobody in without a login."""


class _FirstMessage(msgspec.Struct, forbid_unknown_fields=True):
    ticket: str


class Guard:
    """Of one application."""

    def __init__(
        self,
        settings: AccessSettings,
        *,
        sessions: Sessions,
        tickets: Tickets,
        attachments: Attachments,
        by_token: ByToken,
        by_scrape: ByScrape = no_scrape,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._tickets = tickets
        self._attachments = attachments
        self._by_token = by_token
        self._by_scrape = by_scrape

    async def grant(
        self, request: web.Request, right: Right, vm: VMView | None, *, is_change: bool
    ) -> Grant:
        """Return the right of whoever sent `request`; see `frame.route.Guard`."""
        if right is Right.METRICS:
            scraper = await self._by_scrape(request)
            if scraper is not None:
                return Grant(user=scraper.user, right=right, session=scraper)
        try:
            session = await self.session(request, is_change=is_change)
        except Problem as exc:
            if right is Right.METRICS and exc.status in (401, 403):
                raise Problem(exc.status, exc.error, str(exc), hint=_NO_SCRAPE) from exc
            raise
        grant = Grant(user=session.user, right=right, session=session)
        try:
            _check_right(grant, vm)
        except Problem:
            self._count(session)
            _note("refused", request, grant, vm)
            raise
        if is_change:
            self._count(session)
            _note("allowed", request, grant, vm)
        return grant

    def _count(self, session: Session) -> None:
        """Refuse somebody who sends more than the log is to have of him.

        Raises:
            Problem: 429; nothing was done.
        """
        if not self._sessions.may_be_noted(session):
            raise Problem(
                429,
                "too-many-requests",
                "this session sends too many requests",
                hint="wait a while",
            )

    async def session(self, request: web.Request, *, is_change: bool) -> Session:
        """Return the session of a request, with rights that are fresh.

        Raises:
            Problem: 401, 403 or 503.
        """
        token = token_of(request)
        if token is not None:
            session = await self._by_token(token, request)
        else:
            session = self._session_of_cookie(request, is_change=is_change)
        if session.is_local and not is_from_this_node(request):
            raise not_logged_in("this session counts only on the node itself")
        await self._sessions.refresh(session)
        return session

    def _session_of_cookie(self, request: web.Request, *, is_change: bool) -> Session:
        found = self.find_session(request)
        if found is None:
            raise not_logged_in()
        # A browser sends the cookie with whatever page makes it do so.
        if is_cross_site(request.headers.get("Sec-Fetch-Site")):
            raise forbidden("the request comes from a page of another site")
        needs_origin = is_change or "Upgrade" in request.headers
        if needs_origin and not is_from_own_page(request, self._settings.site):
            raise forbidden(
                "with a cookie, a change and a socket need the header Origin",
                hint="programs send a token in the header X-Nomad-Token instead",
            )
        return found

    def find_session(self, request: web.Request) -> Session | None:
        """Return the session of a request's cookie, without any check."""
        secret = request.cookies.get(cookie_name(request))
        return self._sessions.find(secret) if secret else None

    def issue_ticket(self, grant: Grant, vm: VMView, *, kind: Kind, mode: Mode) -> str:
        """Return a ticket for `socket`.

        Raises:
            Problem: he may not, or has too many that he did not use.
        """
        _check_right(Grant(user=grant.user, right=RIGHT_OF_MODE[mode], session=grant.session), vm)
        return self._tickets.issue(grant.session, vm_id=vm.vm_id, kind=kind, mode=mode)

    def viewers(self, vm_id: str) -> int:
        """Return how many sockets there are to a VM."""
        return self._attachments.count_of(vm_id)

    @asynccontextmanager
    async def stream(self, grant: Grant) -> AsyncIterator[None]:
        """Run the block until the session of `grant` ends.

        Raises:
            Problem: it has too many streams; before the block.
        """
        limit = asyncio.timeout(None)
        ended = False

        def end(_code: int, _reason: str) -> None:
            nonlocal ended
            if ended:
                # A limit that has struck takes no other time, and raises.
                return
            ended = True
            limit.reschedule(asyncio.get_running_loop().time())

        attachment = Attachment(
            session=grant.session, namespace=None, vm_id="", right=grant.right, end=end
        )
        try:
            async with limit, self._attachments.attached(attachment):
                yield
        except TimeoutError:
            if not ended:
                raise

    async def socket(
        self,
        request: web.Request,
        grant: Grant,
        vm: VMView,
        *,
        kind: Kind,
        serve: Callable[[Socket], Awaitable[object]],
    ) -> web.WebSocketResponse:
        """Open the socket of a screen or serial port; return when it has ended.

        Args:
            request: Which asks for it.
            grant: Of `Right.VIEW` at least.
            vm: Whose.
            kind: Which the ticket must be for.
            serve: Called after a good ticket; cancelled when the socket has to end.

        Raises:
            Problem: the session has too many sockets, or the request asks for none.
        """
        ws = web.WebSocketResponse(max_msg_size=FRAME_MAX_BYTES, heartbeat=PING_S, compress=False)
        if not ws.can_prepare(request).ok:
            raise Problem(426, "no-websocket", "this path is a WebSocket")
        socket = Socket(ws, request, grant=grant, vm=vm, idle_s=self._settings.socket_idle_s)
        attachment = Attachment(
            session=grant.session,
            namespace=vm.namespace,
            vm_id=vm.vm_id,
            right=grant.right,
            end=socket.end,
        )
        async with self._attachments.attached(attachment):
            await ws.prepare(request)
            async with socket.serving():
                socket.mode = await self._first_message(socket, kind)
                attachment.right = RIGHT_OF_MODE[socket.mode]
                _note("opened", request, grant, vm, kind=kind, mode=socket.mode)
                await socket.send("ok")
                await serve(socket)
        _note(
            "closed",
            request,
            grant,
            vm,
            kind=kind,
            code=ws.close_code,
            bytes_in=socket.bytes_in,
            bytes_out=socket.bytes_out,
        )
        return ws

    async def _first_message(self, socket: Socket, kind: Kind) -> Mode:
        """Return the mode of the ticket in the first message, if the right is there still.

        Raises:
            SocketEndedError: it was none; the client is told.
        """
        mode = None
        with suppress(TimeoutError, *DECODE_ERRORS):
            async with asyncio.timeout(FIRST_MESSAGE_S):
                message = await socket.receive()
            text = msgspec.json.decode(message, type=_FirstMessage).ticket
            mode = self._tickets.take(text, socket.grant.session, vm_id=socket.vm.vm_id, kind=kind)
        if mode is None:
            socket.fail(BAD_TICKET, "the first message is no ticket that is good here")
        session = socket.grant.session
        await self._sessions.refresh(session)
        if not session.allows(RIGHT_OF_MODE[mode], socket.vm.namespace):
            socket.fail(RIGHT_LOST, "you may not use this VM any more")
        return mode


def cookie_name(request: web.Request) -> str:
    """Return the name of the session's cookie.

    Without TLS a browser takes no `__Host-` name, and gives a cookie to every port of the host.
    """
    if request.secure:
        return "__Host-qn"
    transport = request.transport
    name = None if transport is None else transport.get_extra_info("sockname")
    return f"qn-{name[1]}" if isinstance(name, tuple) else "qn"


def _check_right(grant: Grant, vm: VMView | None) -> None:
    """Refuse what `grant` does not allow.

    Raises:
        Problem: 403; 404 for a VM that he may not see.
    """
    if vm is None:
        # Of a VM that is not there nobody may anything, and the frame says so.
        if grant.right in OF_NODE and not grant.allows(grant.right, None):
            raise forbidden(
                "you may not see what concerns the node",
                hint='a policy with `node { policy = "read" }` allows it',
            )
        return
    if not grant.allows(Right.SEE, vm):
        raise no_such_vm(printable(vm.vm_id))
    if not grant.allows(grant.right, vm):
        needed = " and ".join(sorted(CAPABILITIES.get(grant.right, {"node:read"})))
        raise forbidden(
            f"you may not do this ({grant.right}) in namespace {printable(vm.namespace)!r}",
            hint=f"it takes a policy with {needed} there",
        )


def _note(
    action: str, request: web.Request, grant: Grant, vm: VMView | None, **fields: object
) -> None:
    resource = request.match_info.route.resource
    audit.note(
        action,
        user=grant.user,
        session=grant.session.id,
        vm_id="" if vm is None else vm.vm_id,
        namespace="" if vm is None else vm.namespace,
        peer=request.remote or "",
        what=f"{request.method} {resource.canonical if resource else request.path}",
        right=grant.right.value,
        **fields,
    )
