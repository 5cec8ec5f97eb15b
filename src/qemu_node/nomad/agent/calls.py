"""The plugin's services over a gRPC channel: the caller's side of `plugin.service`.

Owns making the calls and turning gRPC statuses back into errors. Does not own the channel.

Every method raises `PluginError` if the plugin answers with an error or is gone.
"""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from qemu_node.nomad.plugin import grpcstatus
from qemu_node.nomad.plugin.grpcstatus import PluginError
from qemu_node.nomad.plugin.rpc import Method, grpc, methods_of
from qemu_node.nomad.plugin.service import DriverService, PluginBase
from qemu_node.nomad.proto import base_pb2, driver_pb2, goplugin_pb2, health_pb2

_Reply = TypeVar("_Reply", bound=Message)


class _Caller:
    """Calls the RPCs of one service by their names on the wire."""

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        self._calls = {
            name: _multi_callable(channel, method) for name, method in methods_of(service).items()
        }

    async def unary(
        self, name: str, request: Message, reply: type[_Reply], *, timeout_s: float | None = None
    ) -> _Reply:
        """Return the reply to a call. Without `timeout_s` there is no time limit."""
        try:
            answer: _Reply = await self._calls[name](request, timeout=timeout_s)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as exc:
            raise _error(exc) from None
        return answer

    async def stream(self, name: str, request: Any, reply: type[_Reply]) -> AsyncIterator[_Reply]:
        """Yield the replies to a call. `request` is a message, or an iterator of messages."""
        call: Any = None
        try:
            call = self._calls[name](request)
            answer: _Reply
            async for answer in call:
                yield answer
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as exc:
            raise _error(exc) from None
        finally:
            if call is not None:
                call.cancel()


def _multi_callable(channel: grpc.aio.Channel, method: Method) -> Any:
    """Return gRPC's callable of one RPC."""
    if method.is_client_streaming:
        make: Any = channel.stream_stream
    elif method.is_server_streaming:
        make = channel.unary_stream
    else:
        make = channel.unary_unary
    return make(
        method.path,
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.response.FromString,
    )


def _error(exc: grpc.aio.AioRpcError | grpc.aio.UsageError) -> PluginError:
    if isinstance(exc, grpc.aio.UsageError):
        return PluginError(grpc.StatusCode.UNAVAILABLE, "the connection to the plugin is closed")
    trailers = dict(exc.trailing_metadata() or ())
    details = trailers.get(grpcstatus.DETAILS_KEY)
    return grpcstatus.from_status(
        exc.code(), exc.details() or "", details if isinstance(details, bytes) else None
    )


class GoPluginCalls:
    """The calls that go-plugin itself makes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        services = goplugin_pb2.DESCRIPTOR.services_by_name
        self._controller = _Caller(channel, services["GRPCController"])
        self._health = _Caller(channel, health_pb2.DESCRIPTOR.services_by_name["Health"])

    async def is_serving(self) -> bool:
        """Tell whether the plugin says that it serves."""
        reply = await self._health.unary(
            "Check",
            health_pb2.HealthCheckRequest(service="plugin"),
            health_pb2.HealthCheckResponse,
        )
        return reply.status == health_pb2.HealthCheckResponse.SERVING

    async def shutdown(self, *, timeout_s: float) -> None:
        """Ask the plugin's process to exit."""
        await self._controller.unary(
            "Shutdown", goplugin_pb2.Empty(), goplugin_pb2.Empty, timeout_s=timeout_s
        )


class BaseCalls(PluginBase):
    """`BasePlugin` of a plugin process."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._caller = _Caller(channel, base_pb2.DESCRIPTOR.services_by_name["BasePlugin"])

    async def plugin_info(self, request: base_pb2.PluginInfoRequest) -> base_pb2.PluginInfoResponse:
        """Return the plugin's name, type and versions."""
        return await self._caller.unary("PluginInfo", request, base_pb2.PluginInfoResponse)

    async def config_schema(
        self, request: base_pb2.ConfigSchemaRequest
    ) -> base_pb2.ConfigSchemaResponse:
        """Return the schema of the operator's `plugin` block."""
        return await self._caller.unary("ConfigSchema", request, base_pb2.ConfigSchemaResponse)

    async def set_config(self, request: base_pb2.SetConfigRequest) -> base_pb2.SetConfigResponse:
        """Give the plugin its configuration."""
        return await self._caller.unary("SetConfig", request, base_pb2.SetConfigResponse)


class DriverCalls(DriverService):
    """`Driver` of a plugin process."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._caller = _Caller(channel, driver_pb2.DESCRIPTOR.services_by_name["Driver"])

    async def init(self, request: driver_pb2.InitRequest) -> driver_pb2.InitResponse:
        """Let the driver begin to serve."""
        return await self._caller.unary("Init", request, driver_pb2.InitResponse)

    async def task_config_schema(
        self, request: driver_pb2.TaskConfigSchemaRequest
    ) -> driver_pb2.TaskConfigSchemaResponse:
        """Return the schema of a task's `config` block."""
        return await self._caller.unary(
            "TaskConfigSchema", request, driver_pb2.TaskConfigSchemaResponse
        )

    async def capabilities(
        self, request: driver_pb2.CapabilitiesRequest
    ) -> driver_pb2.CapabilitiesResponse:
        """Return what the driver can do."""
        return await self._caller.unary("Capabilities", request, driver_pb2.CapabilitiesResponse)

    def fingerprint(
        self, request: driver_pb2.FingerprintRequest
    ) -> AsyncIterator[driver_pb2.FingerprintResponse]:
        """Yield the driver's health and attributes."""
        return self._caller.stream("Fingerprint", request, driver_pb2.FingerprintResponse)

    async def recover_task(
        self, request: driver_pb2.RecoverTaskRequest
    ) -> driver_pb2.RecoverTaskResponse:
        """Let the driver adopt a task by its handle."""
        return await self._caller.unary("RecoverTask", request, driver_pb2.RecoverTaskResponse)

    async def start_task(
        self, request: driver_pb2.StartTaskRequest
    ) -> driver_pb2.StartTaskResponse:
        """Start a task and return its handle."""
        return await self._caller.unary("StartTask", request, driver_pb2.StartTaskResponse)

    async def wait_task(self, request: driver_pb2.WaitTaskRequest) -> driver_pb2.WaitTaskResponse:
        """Return how a task ended, once it has."""
        return await self._caller.unary("WaitTask", request, driver_pb2.WaitTaskResponse)

    async def stop_task(self, request: driver_pb2.StopTaskRequest) -> driver_pb2.StopTaskResponse:
        """Stop a task within the request's timeout."""
        return await self._caller.unary("StopTask", request, driver_pb2.StopTaskResponse)

    async def destroy_task(
        self, request: driver_pb2.DestroyTaskRequest
    ) -> driver_pb2.DestroyTaskResponse:
        """Remove everything of a task."""
        return await self._caller.unary("DestroyTask", request, driver_pb2.DestroyTaskResponse)

    async def inspect_task(
        self, request: driver_pb2.InspectTaskRequest
    ) -> driver_pb2.InspectTaskResponse:
        """Return a task's state."""
        return await self._caller.unary("InspectTask", request, driver_pb2.InspectTaskResponse)

    def task_stats(
        self, request: driver_pb2.TaskStatsRequest
    ) -> AsyncIterator[driver_pb2.TaskStatsResponse]:
        """Yield a task's resource use."""
        return self._caller.stream("TaskStats", request, driver_pb2.TaskStatsResponse)

    def task_events(
        self, request: driver_pb2.TaskEventsRequest
    ) -> AsyncIterator[driver_pb2.DriverTaskEvent]:
        """Yield the events of all tasks."""
        return self._caller.stream("TaskEvents", request, driver_pb2.DriverTaskEvent)

    async def shutdown(self, request: driver_pb2.ShutdownRequest) -> driver_pb2.ShutdownResponse:
        """Tell the driver that its agent ends. It serves until its process is told to exit."""
        return await self._caller.unary("Shutdown", request, driver_pb2.ShutdownResponse)

    async def exec_task(self, request: driver_pb2.ExecTaskRequest) -> driver_pb2.ExecTaskResponse:
        """Run a command in a task and return what it printed."""
        return await self._caller.unary("ExecTask", request, driver_pb2.ExecTaskResponse)

    def exec_task_streaming(
        self, requests: AsyncIterator[driver_pb2.ExecTaskStreamingRequest]
    ) -> AsyncIterator[driver_pb2.ExecTaskStreamingResponse]:
        """Run a command with its input and output streamed."""
        return self._caller.stream(
            "ExecTaskStreaming", requests, driver_pb2.ExecTaskStreamingResponse
        )

    async def signal_task(
        self, request: driver_pb2.SignalTaskRequest
    ) -> driver_pb2.SignalTaskResponse:
        """Send a signal to a task."""
        return await self._caller.unary("SignalTask", request, driver_pb2.SignalTaskResponse)

    async def create_network(
        self, request: driver_pb2.CreateNetworkRequest
    ) -> driver_pb2.CreateNetworkResponse:
        """Let the driver make a network namespace."""
        return await self._caller.unary("CreateNetwork", request, driver_pb2.CreateNetworkResponse)

    async def destroy_network(
        self, request: driver_pb2.DestroyNetworkRequest
    ) -> driver_pb2.DestroyNetworkResponse:
        """Let the driver remove a network namespace."""
        return await self._caller.unary(
            "DestroyNetwork", request, driver_pb2.DestroyNetworkResponse
        )
