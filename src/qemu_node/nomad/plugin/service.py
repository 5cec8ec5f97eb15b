"""The plugin's services as Python interfaces: one method for each RPC.

Implemented twice: by the driver, which `server` serves, and by `agent.calls`, which calls a plugin
process. So the user of a `DriverService` need not know on which side of the wire it is.

A method fails by raising a `NodeError`, which `grpcstatus` turns into a gRPC status. It is
cancelled when the caller goes away or the plugin ends. Methods run at the same time, so none may
block the event loop.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from qemu_node.nomad.plugin.grpcstatus import UnsupportedError
from qemu_node.nomad.proto import base_pb2, driver_pb2


class PluginBase(ABC):
    """`BasePlugin`: the calls of every plugin.

    All three must be pure: Nomad starts the plugin several times to call them, calls `set_config`
    more than once, and does not start its agent if one fails.
    """

    @abstractmethod
    async def plugin_info(self, request: base_pb2.PluginInfoRequest) -> base_pb2.PluginInfoResponse:
        """Return the plugin's name, type and versions."""

    @abstractmethod
    async def config_schema(
        self, request: base_pb2.ConfigSchemaRequest
    ) -> base_pb2.ConfigSchemaResponse:
        """Return the schema of the operator's `plugin` block."""

    @abstractmethod
    async def set_config(self, request: base_pb2.SetConfigRequest) -> base_pb2.SetConfigResponse:
        """Take the operator's configuration. An agent that reattaches does not call it again."""


class DriverService(ABC):
    """`Driver`: the calls of a task driver.

    The streams are asynchronous generators. They are closed when the caller goes away.
    """

    @abstractmethod
    async def init(self, request: driver_pb2.InitRequest) -> driver_pb2.InitResponse:
        """Begin to serve. Agents from 2.0.4 on call it, and again when they reattach."""

    @abstractmethod
    async def task_config_schema(
        self, request: driver_pb2.TaskConfigSchemaRequest
    ) -> driver_pb2.TaskConfigSchemaResponse:
        """Return the schema of a task's `config` block."""

    @abstractmethod
    async def capabilities(
        self, request: driver_pb2.CapabilitiesRequest
    ) -> driver_pb2.CapabilitiesResponse:
        """Return what the driver can do, and what Nomad has to do for it."""

    @abstractmethod
    def fingerprint(
        self, request: driver_pb2.FingerprintRequest
    ) -> AsyncIterator[driver_pb2.FingerprintResponse]:
        """Yield the driver's health and attributes at once and whenever they change."""

    @abstractmethod
    async def recover_task(
        self, request: driver_pb2.RecoverTaskRequest
    ) -> driver_pb2.RecoverTaskResponse:
        """Adopt a task by its handle. A task that has ended, or is known, is OK."""

    @abstractmethod
    async def start_task(
        self, request: driver_pb2.StartTaskRequest
    ) -> driver_pb2.StartTaskResponse:
        """Start a task and return its handle."""

    @abstractmethod
    async def wait_task(self, request: driver_pb2.WaitTaskRequest) -> driver_pb2.WaitTaskResponse:
        """Return once the task has ended. If this raises, Nomad takes the task for ended."""

    @abstractmethod
    async def stop_task(self, request: driver_pb2.StopTaskRequest) -> driver_pb2.StopTaskResponse:
        """Stop a task within the request's timeout and return when it is gone. May be unknown."""

    @abstractmethod
    async def destroy_task(
        self, request: driver_pb2.DestroyTaskRequest
    ) -> driver_pb2.DestroyTaskResponse:
        """Remove everything of a task. An unknown one is OK."""

    @abstractmethod
    async def inspect_task(
        self, request: driver_pb2.InspectTaskRequest
    ) -> driver_pb2.InspectTaskResponse:
        """Return a task's state. Both its times must be set."""

    @abstractmethod
    def task_stats(
        self, request: driver_pb2.TaskStatsRequest
    ) -> AsyncIterator[driver_pb2.TaskStatsResponse]:
        """Yield a task's resource use at the requested interval, each with a timestamp."""

    @abstractmethod
    def task_events(
        self, request: driver_pb2.TaskEventsRequest
    ) -> AsyncIterator[driver_pb2.DriverTaskEvent]:
        """Yield the events of all tasks, without end."""

    @abstractmethod
    async def shutdown(self, request: driver_pb2.ShutdownRequest) -> driver_pb2.ShutdownResponse:
        """Prepare for the agent's end, within 2 s (agents from 2.0.4 on); tasks go on."""

    @abstractmethod
    async def exec_task(self, request: driver_pb2.ExecTaskRequest) -> driver_pb2.ExecTaskResponse:
        """Run a command in the task and return what it printed."""

    @abstractmethod
    def exec_task_streaming(
        self, requests: AsyncIterator[driver_pb2.ExecTaskStreamingRequest]
    ) -> AsyncIterator[driver_pb2.ExecTaskStreamingResponse]:
        """Run a command with its input and output streamed. The first request is `setup`.

        Input and its end arrive before the process exists. Empty messages are heartbeats.
        """

    async def signal_task(
        self, request: driver_pb2.SignalTaskRequest
    ) -> driver_pb2.SignalTaskResponse:
        """Send a signal; by default unsupported."""
        raise UnsupportedError("signals cannot be sent to this task")

    async def create_network(
        self, request: driver_pb2.CreateNetworkRequest
    ) -> driver_pb2.CreateNetworkResponse:
        """Make a network namespace; only called with the capability `must_create_network`."""
        raise UnsupportedError("Nomad makes the network namespace, not this driver")

    async def destroy_network(
        self, request: driver_pb2.DestroyNetworkRequest
    ) -> driver_pb2.DestroyNetworkResponse:
        """Remove the namespace that `create_network` made."""
        raise UnsupportedError("Nomad makes the network namespace, not this driver")
