"""The aiohttp application of a table of routes.

Owns the order in which a request is judged: who sends it, whether there is such a VM, whether it is
well formed; then the handler. So nobody learns from an error what he may not know.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

from qemu_node.text import DECODE_ERRORS, printable
from qemu_node.web.access.acl.rights import OF_NODE, Right
from qemu_node.web.fleet.model import VMView
from qemu_node.web.frame.route import Call, Guard, Query, Route
from qemu_node.web.http.middleware import add_headers
from qemu_node.web.http.problems import Problem, bad_request, no_such_vm, problem_of

BODY_MAX_BYTES = 64 << 10
"""More than any request of ours needs."""
BODY_MAX_S = 10.0
"""How long a body may take to arrive; a client that sends a byte a second keeps nothing open."""

SEND_MAX_S = 120.0
"""How long a client may take for an answer; one that reads a byte a minute keeps nothing open."""

Middleware = Callable[..., Awaitable[web.StreamResponse]]

FindVM = Callable[[str], VMView | None]


def add_routes(
    app: web.Application, routes: Iterable[Route], *, guard: Guard, find_vm: FindVM
) -> None:
    """Serve `routes`.

    Args:
        app: Of `make_application`.
        routes: Whose paths are not served yet.
        guard: Judges those that are not open.
        find_vm: vm_id → VM of this node.
    """
    for route in routes:
        if route.right not in (None, Right.SEE, *OF_NODE) and not route.is_of_vm:
            raise ValueError(f"{route.path}: {route.right} is a right to a VM, and names none")
        app.router.add_route(route.method, route.path, _serve(route, guard, find_vm))


def make_application(checks: Iterable[Middleware] = ()) -> web.Application:
    """Return an application that answers every error with a `ProblemBody`.

    Args:
        checks: Middlewares that judge every request before anything else does.
    """
    app = web.Application(middlewares=[_answer_problems, *checks], client_max_size=BODY_MAX_BYTES)
    app.on_response_prepare.append(add_headers)
    return app


def json_response(value: object, *, status: int = 200) -> web.Response:
    """Return `value` as JSON that no cache keeps."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def has_version(request: web.Request, etag: str) -> bool:
    """Tell whether the client has what `etag` names already (RFC 9110, 13.1.2: If-None-Match)."""
    return any(tag.value in (etag, "*") for tag in request.if_none_match or ())


def _serve(
    route: Route, guard: Guard, find_vm: FindVM
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        vm_id = request.match_info.get("vm_id", "")
        vm = find_vm(vm_id) if route.is_of_vm else None
        grant = None
        if route.right is not None:
            grant = await guard.grant(request, route.right, vm, is_change=route.method != "GET")
        if route.is_of_vm and vm is None:
            raise no_such_vm(printable(vm_id))
        body = None if route.body is None else await _read_body(request, route.body)
        numbers = {query.name: _read_number(request, query) for query in route.query}
        call = Call(request=request, grant=grant, vm=vm, body=body, numbers=numbers)
        answer = await route.handler(call)
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.Response(status=204) if answer is None else json_response(answer)

    return handle


def _read_number(request: web.Request, query: Query) -> int:
    text = request.query.get(query.name)
    if text is None:
        return query.default
    # No number of ours has more digits; int() reads signs, spaces and other scripts, too.
    if text.isascii() and text.isdigit() and len(text) <= 9:
        number = int(text)
        if query.least <= number <= query.most:
            return number
    raise bad_request(
        f"{query.name} must be a whole number from {query.least} to {query.most}",
        hint="/api/v1/openapi.json says what this path takes",
    )


async def _read_body(request: web.Request, kind: type) -> Any:
    if request.content_type != "application/json":
        raise Problem(415, "not-json", "the body must be JSON: Content-Type: application/json")
    try:
        async with asyncio.timeout(BODY_MAX_S):
            data = await request.read()
        return msgspec.json.decode(data, type=kind)
    except web.RequestPayloadError as exc:
        raise bad_request("the body broke off, or is no chunked body") from exc
    except TimeoutError as exc:
        raise Problem(408, "too-slow", f"the body took more than {BODY_MAX_S:g} s") from exc
    except DECODE_ERRORS as exc:
        raise bad_request(
            f"the body is not what this path takes: {printable(str(exc))}",
            hint="/api/v1/openapi.json says what it takes",
        ) from exc


@web.middleware
async def _answer_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    response = await _respond(request, handler)
    if isinstance(response, web.Response):
        await send(request, response)
    return response


async def send(request: web.Request, response: web.Response) -> None:
    """Send a whole answer; end the connection of a client that does not take it.

    A handler sends one by itself that takes much memory. Sent again, nothing happens.
    """
    try:
        async with asyncio.timeout(SEND_MAX_S):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        # The client has gone, which aiohttp finds as well.
        pass


async def _respond(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        error = exc.reason.lower().replace(" ", "-")
        response = _answer(Problem(exc.status, error, exc.reason))
        if "Allow" in exc.headers:
            response.headers["Allow"] = exc.headers["Allow"]
        return response
    except ConnectionError as exc:
        if request.transport is None:
            # The client has gone in the middle of its request: nobody reads this.
            return web.Response(status=400)
        return _answer(problem_of(exc))
    except Exception as exc:
        return _answer(problem_of(exc))


def _answer(problem: Problem) -> web.Response:
    return json_response(problem.body(), status=problem.status)
