"""The plugin's gRPC server: services by descriptor, and errors turned into statuses.

Owns the life of the plugin's process: handshake, signals, serving, exit. Does not own what the
driver does. A plugin that exits leaves the VMs running: the next one adopts them.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from google.protobuf.message import Message

from qemu_node.errors import HostError, NodeError
from qemu_node.nomad.plugin import grpcstatus, handshake
from qemu_node.nomad.plugin.rpc import SERVER_OPTIONS, Method, grpc, methods_of, unix_target
from qemu_node.nomad.plugin.service import DriverService, PluginBase
from qemu_node.nomad.proto import base_pb2, driver_pb2, goplugin_pb2, health_pb2

log = logging.getLogger(__name__)

_DRAIN_TIMEOUT_S = 1.2
"""How long cancelled calls may take to undo their work; the agent kills us after 2 s."""

Context = grpc.aio.ServicerContext[Any, Any]


async def serve(
    base: PluginBase,
    driver: DriverService,
    *,
    run_dirs: Sequence[Path],
    environ: Mapping[str, str] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run a plugin: shake hands, serve, and return when the agent or SIGTERM says so.

    Call it on the main thread. From then on it owns stdout.

    Args:
        base: Answers the calls of every plugin.
        driver: Answers the calls of a task driver.
        run_dirs: The socket's directory is made below the first of them that works; if none does,
            in a temporary directory. An agent does not start without its plugin.
        environ: The environment; by default the process's own.
        stop: When set, ends the plugin as SIGTERM does.

    Raises:
        ConfigError: no agent started this process. Exit with code 1 and the message.
        HostError: there is no place for the socket; no handshake was printed.
    """
    environ = os.environ if environ is None else environ
    stop = asyncio.Event() if stop is None else stop
    handshake.check_environment(environ)
    output = handshake.HandshakeOutput()
    server = PluginServer(base, driver, on_shutdown=stop.set)
    with ExitStack() as stack:
        socket = await _listen(server, run_dirs, environ, stack)
        stack.enter_context(_signals(stop))
        try:
            handshake.grant_group(socket, environ)
            output.announce(handshake.Handshake(socket=socket))
            log.info("plugin is serving", extra={"socket": str(socket)})
            await stop.wait()
        finally:
            await server.stop()
    log.info("plugin ends, VMs go on")


async def _listen(
    server: "PluginServer",
    run_dirs: Sequence[Path],
    environ: Mapping[str, str],
    stack: ExitStack,
) -> Path:
    """Start `server`, and return its socket; `stack` removes it."""
    places = [handshake.plugin_socket(run_dir, environ) for run_dir in run_dirs]
    places.append(handshake.temporary_socket())
    for place in places:
        try:
            with ExitStack() as attempt:
                socket = attempt.enter_context(place)
                await server.start(socket)
                stack.push(attempt.pop_all())
                return socket
        except NodeError as exc:
            if place is places[-1]:
                raise
            log.warning("socket not made; trying elsewhere", extra={"reason": exc.explain()})
    raise AssertionError("the last place returns or raises")


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Make SIGTERM set `stop` and SIGINT do nothing inside the block.

    Ctrl-C in a terminal goes to the agent's whole process group; the agent then shuts us down by
    RPC. This sets a handler instead of SIG_IGN, which children would inherit.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, log.debug, "SIGINT ignored")
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)


class PluginServer:
    """Serves a plugin on a unix socket, to any number of clients."""

    def __init__(
        self, base: PluginBase, driver: DriverService, *, on_shutdown: Callable[[], None]
    ) -> None:
        self._calls: set[asyncio.Task[Any]] = set()
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        go_plugin = _GoPlugin()
        services: tuple[tuple[Any, Any], ...] = (
            (base_pb2.DESCRIPTOR.services_by_name["BasePlugin"], base),
            (driver_pb2.DESCRIPTOR.services_by_name["Driver"], driver),
            (goplugin_pb2.DESCRIPTOR.services_by_name["GRPCStdio"], go_plugin),
            (goplugin_pb2.DESCRIPTOR.services_by_name["GRPCBroker"], go_plugin),
            (health_pb2.DESCRIPTOR.services_by_name["Health"], go_plugin),
        )
        for descriptor, implementation in services:
            handlers = {
                name: self._handler(method, getattr(implementation, method.python_name))
                for name, method in methods_of(descriptor).items()
            }
            self._add(descriptor.full_name, handlers)
        controller = goplugin_pb2.DESCRIPTOR.services_by_name["GRPCController"]
        method = methods_of(controller)["Shutdown"]
        self._add(controller.full_name, {"Shutdown": _shutdown_handler(method, on_shutdown)})

    def _add(self, service: str, handlers: dict[str, Any]) -> None:
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )

    async def start(self, socket: Path) -> None:
        """Listen on `socket`, an absolute path that does not exist.

        Raises:
            HostError: the kernel refused the address.
        """
        try:
            self._server.add_insecure_port(unix_target(socket))
        except RuntimeError as exc:
            raise HostError(f"cannot listen on {socket}: {exc}") from exc
        await self._server.start()

    async def stop(self) -> None:
        """Refuse new calls, cancel open ones, and give them a moment to undo their work."""
        await self._server.stop(grace=None)
        calls = self._calls - {asyncio.current_task()}
        if calls:
            _, unfinished = await asyncio.wait(calls, timeout=_DRAIN_TIMEOUT_S)
            if unfinished:
                log.warning("calls did not end in time", extra={"count": len(unfinished)})

    def _handler(self, method: Method, call: Callable[..., Any]) -> Any:
        """Return gRPC's handler of one RPC around the service's method."""
        if method.is_server_streaming:
            behaviour: Callable[..., Any] = self._streaming(method, call)
            build = (
                grpc.stream_stream_rpc_method_handler
                if method.is_client_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            behaviour = self._unary(method, call)
            build = grpc.unary_unary_rpc_method_handler
        return cast("Callable[..., Any]", build)(
            behaviour,
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )

    def _unary(self, method: Method, call: Callable[..., Any]) -> Callable[..., Any]:
        async def handle(request: Message, context: Context) -> Any:
            task = self._begin()
            try:
                return await call(request)
            except Exception as exc:  # the boundary of the process: every error is answered
                await _fail(context, method, exc)
            finally:
                self._calls.discard(task)

        return handle

    def _streaming(self, method: Method, call: Callable[..., Any]) -> Callable[..., Any]:
        async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
            stream: AsyncGenerator[Any, None] = call(request)
            task = self._begin()
            try:
                async with contextlib.aclosing(stream):
                    async for reply in stream:
                        yield reply
            except Exception as exc:  # as above
                await _fail(context, method, exc)
            finally:
                self._calls.discard(task)

        return handle

    def _begin(self) -> "asyncio.Task[Any]":
        """Count the current task as an open call; the caller discards it.

        No context manager: two calls are open for each VM, and one would take 0.7 KiB for each.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call runs in a task")
        self._calls.add(task)
        return task


async def _fail(context: Context, method: Method, error: Exception) -> None:
    """End the call with the status of `error`; always raises."""
    if isinstance(error, grpc.aio.BaseError):
        raise error
    if isinstance(error, NodeError):
        # It is normal to be asked for a task that is gone: the agent does so after a restart.
        level = (
            logging.DEBUG if isinstance(error, grpcstatus.TaskNotFoundError) else logging.WARNING
        )
        log.log(level, "call failed", extra={"rpc": method.path, "reason": error.explain()})
    else:
        log.error("call failed by a bug", extra={"rpc": method.path}, exc_info=error)
    answer = grpcstatus.to_status(error)
    trailers = ((grpcstatus.DETAILS_KEY, answer.details),) if answer.details is not None else ()
    await context.abort(answer.code, answer.text, trailers)


def _shutdown_handler(method: Method, on_shutdown: Callable[[], None]) -> Any:
    """Return the handler of GRPCController.Shutdown, which answers before the server ends."""

    async def handle(_request: Message, context: Context) -> goplugin_pb2.Empty:
        context.add_done_callback(cast("Any", lambda _context: on_shutdown()))
        return goplugin_pb2.Empty()

    return cast("Callable[..., Any]", grpc.unary_unary_rpc_method_handler)(
        handle,
        request_deserializer=method.request.FromString,
        response_serializer=method.response.SerializeToString,
    )


class _GoPlugin:
    """The RPCs that go-plugin itself calls.

    The two streams send nothing and end with the connection. Without them each start of the plugin
    leaves a warning in the agent's log.
    """

    async def check(
        self, _request: health_pb2.HealthCheckRequest
    ) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def stream_stdio(
        self, _request: goplugin_pb2.Empty
    ) -> AsyncIterator[goplugin_pb2.StdioData]:
        await asyncio.Event().wait()
        yield goplugin_pb2.StdioData()

    async def start_stream(
        self, requests: AsyncIterator[goplugin_pb2.ConnInfo]
    ) -> AsyncIterator[goplugin_pb2.ConnInfo]:
        async for _ in requests:
            log.debug("go-plugin's broker is not used by drivers")
        await asyncio.Event().wait()
        yield goplugin_pb2.ConnInfo()
