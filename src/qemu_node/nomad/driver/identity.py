"""What every Nomad plugin answers: who it is and how it is configured."""

from qemu_node.errors import ConfigError
from qemu_node.nomad.driver.fingerprint import DRIVER_NAME, driver_version
from qemu_node.nomad.driver.runtime import NodeHost
from qemu_node.nomad.plugin.service import PluginBase
from qemu_node.nomad.proto import base_pb2
from qemu_node.nomad.task.options import parse_plugin_config, plugin_schema

_API_VERSION = "v0.1.0"
"""The one version of Nomad's driver API."""


class VMPlugin(PluginBase):
    """The plugin around the driver `vm`."""

    def __init__(self, host: NodeHost) -> None:
        self._host = host

    async def plugin_info(self, request: base_pb2.PluginInfoRequest) -> base_pb2.PluginInfoResponse:
        """Return the driver's name and version."""
        return base_pb2.PluginInfoResponse(
            type=base_pb2.PluginType.DRIVER,
            plugin_api_versions=[_API_VERSION],
            plugin_version=driver_version(),
            name=DRIVER_NAME,
        )

    async def config_schema(
        self, request: base_pb2.ConfigSchemaRequest
    ) -> base_pb2.ConfigSchemaResponse:
        """Return the schema of the agent's plugin block."""
        return base_pb2.ConfigSchemaResponse(spec=plugin_schema())

    async def set_config(self, request: base_pb2.SetConfigRequest) -> base_pb2.SetConfigResponse:
        """Take the configuration; nothing is read or judged yet, and nothing can fail.

        Nomad calls this several times, in processes that serve no task, and does not start its
        agent if it fails. What is wrong is for the fingerprint to tell.
        """
        try:
            self._host.configure(parse_plugin_config(request.msgpack_config))
        except ConfigError as exc:
            self._host.reject(exc)
        speeds = [
            core.max_speed or core.base_speed or core.guess_speed
            for core in request.nomad_config.driver.Topology.cores
        ]
        if any(speeds):
            self._host.mhz_per_core = sum(speeds) / len(speeds)
        return base_pb2.SetConfigResponse()
