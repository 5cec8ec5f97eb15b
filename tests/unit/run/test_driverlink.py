from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.fake_plugin import FakeBase, FakeDriver

from qemu_node.errors import MissingPartError, NodeError
from qemu_node.nomad.proto import driver_pb2
from qemu_node.nomad.task.options import parse_plugin_config
from qemu_node.run.driverlink import DriverLink, TaskEnd


class UnhealthyDriver(FakeDriver):
    async def fingerprint(
        self, request: driver_pb2.FingerprintRequest
    ) -> AsyncIterator[driver_pb2.FingerprintResponse]:
        yield driver_pb2.FingerprintResponse(
            health=driver_pb2.FingerprintResponse.UNHEALTHY, health_description="no QEMU"
        )


class EndingDriver(FakeDriver):
    async def wait_task(self, request: driver_pb2.WaitTaskRequest) -> driver_pb2.WaitTaskResponse:
        result = driver_pb2.ExitResult(exit_code=137, signal=9, oom_killed=True)
        return driver_pb2.WaitTaskResponse(result=result, err="killed")

    async def task_events(
        self, request: driver_pb2.TaskEventsRequest
    ) -> AsyncIterator[driver_pb2.DriverTaskEvent]:
        for percent in ("68", "much"):
            yield driver_pb2.DriverTaskEvent(
                alloc_id="a", task_name="t", message="m", annotations={"percent": percent}
            )


def link(driver: FakeDriver) -> DriverLink:
    return DriverLink(FakeBase(), driver, config_path=None)


async def test_a_healthy_driver_tells_its_schema_and_attributes() -> None:
    info = await link(FakeDriver()).begin()
    assert info.facts.has_own_paths
    assert "image" in info.facts.task_schema.object.attributes
    assert info.facts.attributes == {"driver.vm": "true", "driver.vm.version": "0.1.0"}


async def test_the_plugin_is_told_which_node_toml_to_read() -> None:
    base = FakeBase()
    await DriverLink(base, FakeDriver(), config_path=Path("/etc/x.toml")).begin()
    assert parse_plugin_config(base.configs[0]).config == "/etc/x.toml"


async def test_an_unhealthy_drivers_text_is_the_error() -> None:
    with pytest.raises(MissingPartError, match="cannot run VMs: no QEMU") as caught:
        await link(UnhealthyDriver()).begin()
    assert caught.value.hint == "`qemu-node doctor` says what to do"


async def test_a_state_without_a_vm_id_is_refused() -> None:
    with pytest.raises(NodeError, match="names no VM"):
        await link(FakeDriver()).start(driver_pb2.TaskConfig(id="x"))


async def test_an_end_carries_all_that_the_driver_said() -> None:
    end = await link(EndingDriver()).wait("x")
    assert end == TaskEnd(exit_code=137, signal=9, oom_killed=True, reason="killed")
    assert end.describe() == "exit code 137, SIGKILL, out of memory: killed"


async def test_a_percentage_that_is_none_is_passed_over() -> None:
    events = [event async for event in link(EndingDriver()).events()]
    assert [event.percent for event in events] == [68.0, None]
