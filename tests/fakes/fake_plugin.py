"""A plugin process whose driver starts nothing, and plugins that misbehave at the handshake.

Run as a program: `fake_plugin.py RUN_DIR [MODE]`. Modes: `serve` (default), `silent`, `garbage`,
`exit`, `tls`, `stubborn` (serves, and ignores SIGTERM and Controller.Shutdown), `chatty` (prints to
stdout while it serves).
"""

import asyncio
import ctypes
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from qemu_node.errors import ConfigError, HostError, JobError, NodeError
from qemu_node.nomad.plugin import log as plugin_log
from qemu_node.nomad.plugin import server
from qemu_node.nomad.plugin.grpcstatus import TaskNotFoundError
from qemu_node.nomad.plugin.service import DriverService, PluginBase
from qemu_node.nomad.proto import base_pb2, driver_pb2
from qemu_node.nomad.proto.structs_pb2 import Attribute
from qemu_node.nomad.task.options import plugin_schema, task_schema

log = logging.getLogger("fake_plugin")


class FakeBase(PluginBase):
    """Answers as the plugin `vm` would."""

    def __init__(self) -> None:
        self.configs: list[bytes] = []

    async def plugin_info(self, request: base_pb2.PluginInfoRequest) -> base_pb2.PluginInfoResponse:
        return base_pb2.PluginInfoResponse(
            type=base_pb2.DRIVER,
            plugin_api_versions=["v0.1.0"],
            plugin_version="0.1.0",
            name="vm",
        )

    async def config_schema(
        self, request: base_pb2.ConfigSchemaRequest
    ) -> base_pb2.ConfigSchemaResponse:
        return base_pb2.ConfigSchemaResponse(spec=plugin_schema())

    async def set_config(self, request: base_pb2.SetConfigRequest) -> base_pb2.SetConfigResponse:
        self.configs.append(request.msgpack_config)
        return base_pb2.SetConfigResponse()


class FakeDriver(DriverService):
    """Keeps tasks that do nothing; the job name says how a start goes.

    `job`, `host` and `fault` fail as these kinds of errors do; `slow` takes for ever, and its
    undo `undo_s`.
    """

    def __init__(self, undo_s: float = 0.0) -> None:
        self.tasks: dict[str, driver_pb2.TaskConfig] = {}
        self.ended: dict[str, asyncio.Event] = {}
        self.undone: list[str] = []
        self.waiting = 0
        self.closed_streams: list[str] = []
        self._undo_s = undo_s

    async def init(self, request: driver_pb2.InitRequest) -> driver_pb2.InitResponse:
        return driver_pb2.InitResponse()

    async def task_config_schema(
        self, request: driver_pb2.TaskConfigSchemaRequest
    ) -> driver_pb2.TaskConfigSchemaResponse:
        return driver_pb2.TaskConfigSchemaResponse(spec=task_schema())

    async def capabilities(
        self, request: driver_pb2.CapabilitiesRequest
    ) -> driver_pb2.CapabilitiesResponse:
        return driver_pb2.CapabilitiesResponse(
            capabilities=driver_pb2.DriverCapabilities(
                exec=True,
                fs_isolation=driver_pb2.DriverCapabilities.IMAGE,
                disable_log_collection=True,
            )
        )

    async def fingerprint(
        self, request: driver_pb2.FingerprintRequest
    ) -> AsyncIterator[driver_pb2.FingerprintResponse]:
        try:
            yield driver_pb2.FingerprintResponse(
                attributes={
                    "driver.vm": Attribute(bool_val=True),
                    "driver.vm.version": Attribute(string_val="0.1.0"),
                },
                health=driver_pb2.FingerprintResponse.HEALTHY,
                health_description="Healthy",
            )
            await asyncio.Event().wait()
        finally:
            self.closed_streams.append("fingerprint")

    async def recover_task(
        self, request: driver_pb2.RecoverTaskRequest
    ) -> driver_pb2.RecoverTaskResponse:
        self._keep(request.handle.config)
        return driver_pb2.RecoverTaskResponse()

    async def start_task(
        self, request: driver_pb2.StartTaskRequest
    ) -> driver_pb2.StartTaskResponse:
        errors: dict[str, Exception] = {
            "job": JobError("the image is\nmissing", hint="name one"),
            "host": HostError("disk full " + "é" * 4000),
            "fault": RuntimeError("a fault"),
        }
        name = request.task.job_name
        if name in errors:
            raise errors[name]
        if name == "slow":
            await self._start_slowly(request.task.id)
        self._keep(request.task)
        return driver_pb2.StartTaskResponse(
            handle=driver_pb2.TaskHandle(
                version=1, config=request.task, state=driver_pb2.RUNNING, driver_state=b"\0\xff"
            )
        )

    async def _start_slowly(self, task_id: str) -> None:
        try:
            log.info("slow start began")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(self._undo_s)
            log.info("slow start undone")
            self.undone.append(task_id)

    def _keep(self, config: driver_pb2.TaskConfig) -> None:
        self.tasks[config.id] = config
        self.ended[config.id] = asyncio.Event()

    async def wait_task(self, request: driver_pb2.WaitTaskRequest) -> driver_pb2.WaitTaskResponse:
        if request.task_id not in self.ended:
            raise TaskNotFoundError
        self.waiting += 1
        try:
            await self.ended[request.task_id].wait()
        finally:
            self.waiting -= 1
        return driver_pb2.WaitTaskResponse(result=driver_pb2.ExitResult(exit_code=3))

    async def stop_task(self, request: driver_pb2.StopTaskRequest) -> driver_pb2.StopTaskResponse:
        if request.task_id in self.ended:
            self.ended[request.task_id].set()
        return driver_pb2.StopTaskResponse()

    async def destroy_task(
        self, request: driver_pb2.DestroyTaskRequest
    ) -> driver_pb2.DestroyTaskResponse:
        self.tasks.pop(request.task_id, None)
        return driver_pb2.DestroyTaskResponse()

    async def inspect_task(
        self, request: driver_pb2.InspectTaskRequest
    ) -> driver_pb2.InspectTaskResponse:
        if request.task_id not in self.tasks:
            raise TaskNotFoundError
        return driver_pb2.InspectTaskResponse()

    async def task_stats(
        self, request: driver_pb2.TaskStatsRequest
    ) -> AsyncIterator[driver_pb2.TaskStatsResponse]:
        yield driver_pb2.TaskStatsResponse(stats=driver_pb2.TaskStats(id=request.task_id))
        raise NodeError("no more")

    async def task_events(
        self, request: driver_pb2.TaskEventsRequest
    ) -> AsyncIterator[driver_pb2.DriverTaskEvent]:
        try:
            await asyncio.Event().wait()
            yield driver_pb2.DriverTaskEvent()
        finally:
            self.closed_streams.append("task_events")

    async def shutdown(self, request: driver_pb2.ShutdownRequest) -> driver_pb2.ShutdownResponse:
        return driver_pb2.ShutdownResponse()

    async def exec_task(self, request: driver_pb2.ExecTaskRequest) -> driver_pb2.ExecTaskResponse:
        return driver_pb2.ExecTaskResponse(stdout=" ".join(request.command).encode())

    async def exec_task_streaming(
        self, requests: AsyncIterator[driver_pb2.ExecTaskStreamingRequest]
    ) -> AsyncIterator[driver_pb2.ExecTaskStreamingResponse]:
        async for request in requests:
            if request.stdin.close:
                break
            if request.stdin.data:
                yield driver_pb2.ExecTaskStreamingResponse(
                    stdout=driver_pb2.ExecTaskStreamingIOOperation(data=request.stdin.data)
                )
        yield driver_pb2.ExecTaskStreamingResponse(
            exited=True, result=driver_pb2.ExitResult(exit_code=7)
        )


class _ChattyDriver(FakeDriver):
    """Prints to stdout as a careless library would."""

    async def init(self, request: driver_pb2.InitRequest) -> driver_pb2.InitResponse:
        os.write(1, b"stray line\n")
        ctypes.CDLL(None).puts(b"stray line of C")
        return driver_pb2.InitResponse()


def main(argv: list[str]) -> int:
    run_dir, mode = Path(argv[1]), argv[2] if len(argv) > 2 else "serve"
    plugin_log.configure(logging.DEBUG)
    match mode:
        case "silent":
            time.sleep(600)
        case "exit":
            sys.stderr.write("cannot go on\n")
            return 4
        case "garbage":
            os.write(1, b"hello\n")
            time.sleep(600)
        case "tls":
            os.write(1, b"1|2|unix|/x|grpc|Y2VydA\n")
            time.sleep(600)
        case _:
            pass
    driver = _ChattyDriver() if mode == "chatty" else FakeDriver(undo_s=0.2)
    stop = asyncio.Event()
    if mode == "stubborn":
        stop.set = lambda: None  # type: ignore[method-assign]
    try:
        asyncio.run(server.serve(FakeBase(), driver, run_dirs=[run_dir], stop=stop))
    except ConfigError as exc:
        sys.stderr.write(exc.explain() + "\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
