"""What the console asks a real Nomad agent about a VM, and does with its task."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from e2e.nomad_node import VM_JOB, Node, running_agent
from fakes.web_api import ApiUnderTest, running_api
from guests import bootsector

from qemu_node.config.node import Paths

pytestmark = [
    pytest.mark.needs_nomad,
    pytest.mark.needs_root,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(900),
]

READY = "R\n"
OTHER = """
job "other" {
  group "g" {
    task "sleep" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["1000"]
      }
    }
  }
}
"""


async def until_printed(api: ApiUnderTest, vm_id: str, times: int) -> None:
    """Return once the log that Nomad gives has the guest ready so many times."""
    while True:
        async with api.client.get(f"/api/v1/vms/{vm_id}/log?lines=1000") as reply:
            text = await reply.text()
            if reply.status == 200 and text.count(READY) >= times:
                return
        await asyncio.sleep(0.2)


async def running_vm(api: ApiUnderTest, *, without: str = "") -> Any:
    """Return the VM that runs and has not the vm_id `without`."""
    async for state in api.fleet.changes():
        for vm in state.values():
            if vm.state == "running" and vm.vm_id != without:
                return vm
    raise AssertionError


@pytest.fixture
def image(empty_image: Path) -> Path:
    """A guest that boots in no time and prints that it has."""
    empty_image.write_bytes(bootsector.serial_echo())
    return empty_image


async def test_a_vm_is_logged_restarted_and_stopped_through_nomad(
    short_tmp_path: Path, image: Path
) -> None:
    node = Node(short_tmp_path, image)
    async with running_agent(node) as agent:
        await agent.run_job(OTHER)
        job = await agent.run_job(VM_JOB.format(image=image))
        (allocation,) = await agent.running_allocations(job)
        paths = Paths(run=str(node.run), data=str(node.data))
        async with running_api(paths, nomad_address=agent.address) as api:
            vm = await running_vm(api)
            assert vm.alloc_id == allocation["ID"]
            path = f"/api/v1/vms/{vm.vm_id}"
            await until_printed(api, vm.vm_id, 1)
            told = await api.get(f"{path}/events")
            assert told["state"] == "running"
            assert "Started" in [event["kind"] for event in told["events"]]

            cluster = await api.get("/api/v1/cluster")
            assert [row["name"] for row in cluster["vms"]] == ["web.g[0]"]
            (row,) = cluster["nodes"]
            assert (row["name"], row["is_healthy"]) == ("lab", True)
            assert row["console"] == "https://127.0.0.1:5800"

            await api.post(f"{path}/restart")
            # The same allocation, so the same log.
            await until_printed(api, vm.vm_id, 2)
            told = await api.get(f"{path}/events")
            assert "Restart Signaled" in [event["kind"] for event in told["events"]]

            await api.post(f"{path}/stop")
            other = await running_vm(api, without=vm.vm_id)
            assert (other.job, other.alloc_id != vm.alloc_id) == ("web", True)
            ended = api.fleet.get(vm.vm_id)
            assert ended is not None
            assert ended.end is not None
