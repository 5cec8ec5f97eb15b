"""The plugin `vm`: what every Nomad plugin answers, and its process, `qemu-node driver`.

Owns the plugin's name and settings, and wiring the driver to its server and the process's standard
streams. Nomad starts the process, or `qemu-node run`.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

from qemu_node.config.node import default_paths, load
from qemu_node.errors import ConfigError
from qemu_node.host.allocator import keep_one_arena
from qemu_node.host.concurrency.looptime import timed_loop
from qemu_node.host.limits import raise_open_files_limit
from qemu_node.nomad.driver.driver import VMDriver
from qemu_node.nomad.driver.fingerprint import DRIVER_NAME
from qemu_node.nomad.driver.runtime import DriverRuntime
from qemu_node.nomad.plugin import log as plugin_log
from qemu_node.nomad.plugin.server import serve
from qemu_node.nomad.plugin.service import PluginBase
from qemu_node.nomad.proto import base_pb2
from qemu_node.nomad.task.options import parse_plugin_config, plugin_schema
from qemu_node.version import VERSION

log = logging.getLogger(__name__)

LOG_LEVEL_ENV = "QEMU_NODE_LOG_LEVEL"

_API_VERSION = "v0.1.0"
"""The one version of Nomad's driver API."""


class VMPlugin(PluginBase):
    """The plugin around the driver `vm`."""

    def __init__(self, runtime: DriverRuntime) -> None:
        self._runtime = runtime

    async def plugin_info(self, request: base_pb2.PluginInfoRequest) -> base_pb2.PluginInfoResponse:
        """Return the driver's name and version."""
        return base_pb2.PluginInfoResponse(
            type=base_pb2.PluginType.DRIVER,
            plugin_api_versions=[_API_VERSION],
            plugin_version=VERSION,
            name=DRIVER_NAME,
        )

    async def config_schema(
        self, request: base_pb2.ConfigSchemaRequest
    ) -> base_pb2.ConfigSchemaResponse:
        """Return the schema of the agent's plugin block."""
        return base_pb2.ConfigSchemaResponse(spec=plugin_schema())

    async def set_config(self, request: base_pb2.SetConfigRequest) -> base_pb2.SetConfigResponse:
        """Take the configuration. Read and check nothing yet; never fail.

        Nomad calls this several times, in processes that serve no task, and its agent does not
        start if it fails. The fingerprint reports what is wrong.
        """
        try:
            self._runtime.configure(parse_plugin_config(request.msgpack_config))
        except ConfigError as exc:
            self._runtime.reject(exc)
        speeds = [
            core.max_speed or core.base_speed or core.guess_speed
            for core in request.nomad_config.driver.Topology.cores
        ]
        if any(speeds):
            self._runtime.mhz_per_core = sum(speeds) / len(speeds)
        return base_pb2.SetConfigResponse()


def run_driver(*, config_path: Path | None, stop_with_parent: bool) -> None:
    """Run the plugin until the agent ends it; the VMs go on.

    Args:
        config_path: The path of node.toml, unless the agent's plugin block names another.
        stop_with_parent: Stop all VMs of this process and exit when stdin ends, as it does when
            `qemu-node run` is killed. A plugin of Nomad inherits the agent's stdin and ignores it.

    Raises:
        ConfigError: no agent started this process.
        HostError: there is no place for the plugin's socket.
    """
    # If we inherited "ignored" from the agent, we would not learn how a child ended (man 2
    # waitpid).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    level = logging.getLevelNamesMapping().get(os.environ.get(LOG_LEVEL_ENV, "INFO").upper())
    plugin_log.configure(logging.INFO if level is None else level)
    # What is imported stays: no collection looks at it again.
    gc.freeze()
    keep_one_arena()
    raise_open_files_limit()
    with asyncio.Runner(loop_factory=timed_loop) as runner:
        runner.run(_run(config_path, stop_with_parent=stop_with_parent))


async def _run(config_path: Path | None, *, stop_with_parent: bool) -> None:
    runtime = DriverRuntime(config_path)
    stop = asyncio.Event()
    try:
        if stop_with_parent:
            _ = runtime.tasks.start(_stop_at_end_of_stdin(runtime, stop), name="parent")
        # `qemu-node run` can cancel a StartTask; Nomad always waits for it.
        driver = VMDriver(runtime, waits_for_images=stop_with_parent)
        await serve(VMPlugin(runtime), driver, run_dirs=run_dirs(config_path), stop=stop)
    finally:
        await runtime.aclose()


def run_dirs(config_path: Path | None) -> list[Path]:
    """Return the directories in which to try to make the plugin's socket, in order.

    The agent has not sent its settings yet. The fingerprint reports an error in node.toml, and for
    that the agent must reach the plugin.
    """
    usual = default_paths().run_dir
    try:
        named = load(config_path).paths.run_dir
    except Exception:  # as above
        log.debug("node.toml not read", exc_info=True)
        return [usual]
    return [named, usual]


async def _stop_at_end_of_stdin(runtime: DriverRuntime, stop: asyncio.Event) -> None:
    """Wait until the parent ends, then end its VMs."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    log.warning("parent process has ended: stopping its VMs")
    await runtime.destroy_all()
    stop.set()
