"""The console's view of real VMs, and of hundreds that are only published."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from fakes.published import make_record, publish
from fakes.web_api import silent
from integration.vmnode import VMNode

from qemu_node.config.node import Paths
from qemu_node.host.files.tree import remove_tree
from qemu_node.qmp import commands
from qemu_node.qmp.events import RunState
from qemu_node.vm.life.machine import VM
from qemu_node.web.fleet import board, guests
from qemu_node.web.fleet import fleet as fleetmodule
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.fleet.model import EndView, VMView

pytestmark = pytest.mark.timeout(600)

MANY = 500
READY = "small guest ready"
NO_END = EndView(at="", reason="")
Accept = Callable[[Mapping[str, VMView]], object]


@pytest.fixture
async def fleet(node: VMNode) -> AsyncIterator[Fleet]:
    async with Fleet(node.paths) as fleet:
        yield fleet


async def until(fleet: Fleet, accept: Accept) -> None:
    """Return once the fleet's state is accepted; the test's own time limit is the bound."""
    async for state in fleet.changes():
        if accept(state):
            return


def is_in(vm: VM, state: str) -> Accept:
    vm_id = vm.record.vm_id
    return lambda vms: vm_id in vms and vms[vm_id].state == state


@pytest.mark.needs_qemu
class TestGuests:
    """With guests that boot."""

    @pytest.fixture
    def image(self, small_guest_image: Path) -> Path:
        return small_guest_image

    async def test_two_guests_are_known_from_their_start_to_their_end(
        self, node: VMNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guests, "_MEMORY_POLL_S", 1)
        async with Fleet(node.paths) as fleet:
            events: list[tuple[str, str]] = []
            fleet.on_event(lambda vm_id, event: events.append((vm_id, event.name)))
            first = await node.start(node.request())
            other = await node.start(
                node.request(task="other", alloc_id="22222222-2222-3333-4444-555555555555")
            )
            await until(fleet, is_in(first, "running"))
            await until(fleet, is_in(other, "running"))
            await node.printed(READY)
            one, two = first.record.vm_id, other.record.vm_id
            await until(fleet, lambda vms: vms[one].host_name and vms[one].addresses)
            await until(fleet, lambda vms: vms[one].memory.used_bytes)

            async with fleet.monitor(one) as qmp:
                await commands.system_reset(qmp)
            await node.printed(READY, times=2)
            assert (one, "RESET") in events
            assert is_in(first, "running")(fleet.state())

            await node.printed(READY, task="other")
            await other.agent.shutdown(timeout_s=60)
            await until(fleet, lambda vms: (vms[two].end or NO_END).exit_code == 0)
            view = fleet.get(two)
            assert view is not None
            assert view.end is not None
            assert (view.state, view.end.reason) == ("ended", "the guest powered off")
            assert is_in(first, "running")(fleet.state())


@pytest.mark.needs_qemu
async def test_a_paused_guest_is_paused_and_goes_on(node: VMNode, fleet: Fleet) -> None:
    vm = await node.start(node.request())
    await until(fleet, is_in(vm, "running"))
    async with fleet.monitor(vm.record.vm_id) as qmp:
        await qmp.execute("stop")
        await until(fleet, is_in(vm, "paused"))
        await commands.cont(qmp)
    await until(fleet, is_in(vm, "running"))


@pytest.mark.needs_qemu
async def test_a_qemu_that_is_killed_is_ended_and_its_driver_says_why(
    node: VMNode, fleet: Fleet
) -> None:
    vm = await node.start(node.request())
    await until(fleet, is_in(vm, "running"))
    os.kill(vm.record.pid, signal.SIGKILL)
    await until(fleet, is_in(vm, "ended"))
    await until(
        fleet, lambda vms: "killed by SIGKILL" in (vms[vm.record.vm_id].end or NO_END).reason
    )


@pytest.mark.needs_qemu
async def test_a_lost_monitor_and_a_new_daemon_find_the_vm_again(node: VMNode) -> None:
    vm = await node.start(node.request())
    vm_id = vm.record.vm_id
    async with Fleet(node.paths) as fleet:
        async with fleet.monitor(vm_id) as lost:
            await lost.close()
        while lost.is_open:
            await asyncio.sleep(0.01)
        async with fleet.monitor(vm_id) as qmp:
            assert qmp is not lost
            assert (await commands.query_status(qmp)).status is RunState.RUNNING
    async with Fleet(node.paths) as fleet:
        assert is_in(vm, "running")(fleet.state())
        async with fleet.monitor(vm_id) as qmp:
            assert (await commands.query_status(qmp)).status is RunState.RUNNING


@pytest.mark.needs_qemu
async def test_a_driver_that_is_gone_is_noticed(
    node: VMNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleetmodule, "_CHECK_S", 0.2)
    vm = await node.start(node.request())
    async with Fleet(node.paths) as fleet:
        await until(fleet, is_in(vm, "running"))
        await node.crash()
        await until(fleet, is_in(vm, "unmanaged"))
        again = await node.restarted()
        again.image = node.image
        await again.supervisor.recover(vm.state)
        await until(fleet, is_in(vm, "running"))
        await again.close()
    await node.close()


def has(vm_id: str, *states: str) -> Accept:
    return lambda vms: vm_id in vms and (not states or vms[vm_id].state in states)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone, no paths


async def test_hundreds_of_published_vms_are_all_there_and_all_followed(
    short_tmp_path: Path,
) -> None:
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    ids = [f"web-{number:012x}" for number in range(MANY)]
    for vm_id in ids:
        publish(paths, make_record(paths, vm_id))
    async with Fleet(paths, ask=silent) as fleet:
        assert len(fleet.all()) == MANY
        for vm_id in ids[::10]:
            remove_tree(paths.vm_run_dir / vm_id)
        await until(fleet, lambda vms: sum(vm.state == "ended" for vm in vms.values()) == MANY / 10)


async def test_vms_that_come_and_go_leave_nothing(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_COALESCE_S", 0.0)
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    async with Fleet(paths, ask=silent) as fleet:
        publish(paths, make_record(paths, "first-0123456789ab"))
        await until(fleet, lambda vms: vms)
        files, tasks = open_files(), len(asyncio.all_tasks())
        for number in range(100):
            vm_id = f"web-{number:012x}"
            publish(paths, make_record(paths, vm_id))
            await until(fleet, has(vm_id))
            remove_tree(paths.vm_run_dir / vm_id)
            remove_tree(paths.vm_data_dir / vm_id)
            await until(fleet, has(vm_id, "ended"))
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.05)
        assert open_files() <= files
        assert set(fleet._vms) == {"first-0123456789ab"}
