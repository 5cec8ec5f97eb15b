"""The plugin's services over a gRPC channel: the caller's side of `plugin.service`.

Owns making the calls and turning gRPC statuses back into errors. Does not own the channel.

Every method raises `PluginError` if the plugin answers with an error or is gone.
"""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

from google.protobuf.descriptor import ServiceDescriptor

from qemu_node.nomad.plugin import grpcstatus
from qemu_node.nomad.plugin.grpcstatus import PluginError
from qemu_node.nomad.plugin.rpc import Method, grpc, methods_of
from qemu_node.nomad.plugin.service import DriverService, PluginBase
from qemu_node.nomad.proto import base_pb2, driver_pb2, goplugin_pb2, health_pb2


def base_calls(channel: grpc.aio.Channel) -> PluginBase:
    """Return `BasePlugin` of a plugin process."""
    return cast("PluginBase", _calls(channel, base_pb2.DESCRIPTOR.services_by_name["BasePlugin"]))


def driver_calls(channel: grpc.aio.Channel) -> DriverService:
    """Return `Driver` of a plugin process."""
    return cast("DriverService", _calls(channel, driver_pb2.DESCRIPTOR.services_by_name["Driver"]))


class GoPluginCalls:
    """The calls that go-plugin itself makes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        services = goplugin_pb2.DESCRIPTOR.services_by_name
        self._controller = _calls(channel, services["GRPCController"])
        self._health = _calls(channel, health_pb2.DESCRIPTOR.services_by_name["Health"])

    async def is_serving(self) -> bool:
        """Tell whether the plugin says that it serves."""
        reply = await self._health.check(health_pb2.HealthCheckRequest(service="plugin"))
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def shutdown(self, *, timeout_s: float) -> None:
        """Ask the plugin's process to exit."""
        await self._controller.shutdown(goplugin_pb2.Empty(), timeout_s=timeout_s)


def _calls(channel: grpc.aio.Channel, service: ServiceDescriptor) -> Any:
    """Return an object that has a method for each RPC of `service`."""
    return SimpleNamespace(**{
        method.python_name: _call(channel, method) for method in methods_of(service).values()
    })  # fmt: skip


def _call(channel: grpc.aio.Channel, method: Method) -> Any:
    """Return the function that calls one RPC; without `timeout_s` it has no time limit."""
    if method.is_client_streaming:
        make: Any = channel.stream_stream
    elif method.is_server_streaming:
        make = channel.unary_stream
    else:
        make = channel.unary_unary
    call = make(
        method.path,
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.response.FromString,
    )

    async def unary(request: Any, *, timeout_s: float | None = None) -> Any:
        try:
            return await call(request, timeout=timeout_s)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as exc:
            raise _error(exc) from None

    async def stream(request: Any) -> AsyncIterator[Any]:
        replies: Any = None
        try:
            replies = call(request)
            async for reply in replies:
                yield reply
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as exc:
            raise _error(exc) from None
        finally:
            if replies is not None:
                replies.cancel()

    return stream if method.is_server_streaming else unary


def _error(exc: grpc.aio.AioRpcError | grpc.aio.UsageError) -> PluginError:
    if isinstance(exc, grpc.aio.UsageError):
        return PluginError(grpc.StatusCode.UNAVAILABLE, "the connection to the plugin is closed")
    trailers = dict(exc.trailing_metadata() or ())
    details = trailers.get(grpcstatus.DETAILS_KEY)
    return grpcstatus.from_status(
        exc.code(), exc.details() or "", details if isinstance(details, bytes) else None
    )
