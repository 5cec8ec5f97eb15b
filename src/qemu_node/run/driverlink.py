"""The driver as a session uses it: plain values in and out, gRPC messages inside.

Owns the order in which an agent first talks to a plugin, and the translation of messages. Does not
own the process and the connection (`nomad.agent.pluginclient`).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from google.protobuf.duration_pb2 import Duration

from qemu_node.errors import MissingPartError, NodeError
from qemu_node.host.process.exitstatus import signal_name
from qemu_node.nomad.agent.encoding import encode_config
from qemu_node.nomad.plugin.service import DriverService, PluginBase
from qemu_node.nomad.proto import base_pb2, driver_pb2, structs_pb2
from qemu_node.run.allocation.taskconfig import DriverFacts
from qemu_node.text import DECODE_ERRORS

_API_VERSION = "v0.1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverInfo:
    """A driver that is ready for tasks."""

    facts: DriverFacts
    health: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """What a driver says about one task."""

    alloc_id: str
    task_name: str
    message: str
    percent: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnd:
    """How a task ended."""

    exit_code: int
    signal: int = 0
    oom_killed: bool = False
    reason: str = ""

    @property
    def is_failure(self) -> bool:
        """As Nomad counts it: an exit code other than 0, or a reason."""
        return self.exit_code != 0 or self.oom_killed or bool(self.reason)

    def describe(self) -> str:
        """Return it in a few words."""
        words = f"exit code {self.exit_code}"
        if self.signal:
            words += f", {signal_name(self.signal)}"
        if self.oom_killed and "memory" not in self.reason:
            words += ", out of memory"
        return f"{words}: {self.reason}" if self.reason else words


class DriverLink:
    """What a session needs of a driver, over a plugin's services.

    `config_path` is the driver's node.toml.
    """

    def __init__(
        self, base: PluginBase, driver: DriverService, *, config_path: Path | None
    ) -> None:
        self._base = base
        self._driver = driver
        self._config_path = config_path

    async def begin(self) -> DriverInfo:
        """Configure the driver as an agent does, and return it once it says that it is healthy.

        Raises:
            MissingPartError: it is not healthy; the message is its own.
            NodeError: it refused a step.
        """
        schema = await self._base.config_schema(base_pb2.ConfigSchemaRequest())
        settings = {} if self._config_path is None else {"config": str(self._config_path)}
        await self._base.set_config(
            base_pb2.SetConfigRequest(
                msgpack_config=encode_config(schema.spec, settings),
                nomad_config=base_pb2.NomadConfig(driver=base_pb2.NomadDriverConfig()),
                plugin_api_version=_API_VERSION,
            )
        )
        await self._driver.init(driver_pb2.InitRequest())
        fingerprint = await self._first_fingerprint()
        if fingerprint.health != driver_pb2.FingerprintResponse.HEALTHY:
            text = fingerprint.health_description or fingerprint.err
            raise MissingPartError(
                f"this machine cannot run VMs: {text}", hint="`qemu-node doctor` says what to do"
            )
        task_schema = await self._driver.task_config_schema(driver_pb2.TaskConfigSchemaRequest())
        answer = await self._driver.capabilities(driver_pb2.CapabilitiesRequest())
        isolation = answer.capabilities.fs_isolation
        return DriverInfo(
            facts=DriverFacts(
                task_schema=task_schema.spec,
                has_own_paths=isolation != driver_pb2.DriverCapabilities.NONE,
                attributes={k: _attribute(v) for k, v in fingerprint.attributes.items()},
            ),
            health=fingerprint.health_description,
        )

    async def _first_fingerprint(self) -> driver_pb2.FingerprintResponse:
        async for response in self._driver.fingerprint(driver_pb2.FingerprintRequest()):
            return response
        raise NodeError("the driver gave no fingerprint")

    async def start(self, task: driver_pb2.TaskConfig) -> str:
        """Start a task and return its vm_id.

        Raises:
            NodeError: it did not start; the driver has cleaned up.
        """
        answer = await self._driver.start_task(driver_pb2.StartTaskRequest(task=task))
        try:
            state = msgspec.json.decode(answer.handle.driver_state, type=_DriverState)
        except DECODE_ERRORS as exc:
            raise NodeError(f"the driver's state names no VM: {exc}") from exc
        return state.vm_id

    async def wait(self, task_id: str) -> TaskEnd:
        """Return once the task ended.

        Raises:
            NodeError: the driver does not know the task, or is gone.
        """
        answer = await self._driver.wait_task(driver_pb2.WaitTaskRequest(task_id=task_id))
        return TaskEnd(
            exit_code=answer.result.exit_code,
            signal=answer.result.signal,
            oom_killed=answer.result.oom_killed,
            reason=answer.err,
        )

    async def stop(self, task_id: str, timeout_s: float, signal: str) -> None:
        """Stop a task within `timeout_s`; return when it is gone.

        Raises:
            NodeError: it may still run.
        """
        timeout = Duration()
        timeout.FromMilliseconds(int(timeout_s * 1000))
        await self._driver.stop_task(
            driver_pb2.StopTaskRequest(task_id=task_id, timeout=timeout, signal=signal)
        )

    async def destroy(self, task_id: str) -> None:
        """Remove everything of a task; an unknown one is fine.

        Raises:
            NodeError: something may be left.
        """
        await self._driver.destroy_task(driver_pb2.DestroyTaskRequest(task_id=task_id, force=True))

    async def events(self) -> AsyncIterator[TaskEvent]:
        """Yield what the driver says about its tasks, without an end.

        Raises:
            NodeError: the driver is gone.
        """
        async for event in self._driver.task_events(driver_pb2.TaskEventsRequest()):
            yield TaskEvent(
                alloc_id=event.alloc_id,
                task_name=event.task_name,
                message=event.message,
                percent=_percent(event.annotations.get("percent")),
            )


class _DriverState(msgspec.Struct):
    vm_id: str


def _percent(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _attribute(attribute: structs_pb2.Attribute) -> str:
    kind = attribute.WhichOneof("value")
    value = "" if kind is None else getattr(attribute, kind)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text + attribute.unit
