"""A node that goes down: its VMs are ended with no driver there, and start anew afterwards."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import msgspec
import pytest
from guests import cache
from integration.vmnode import WAIT_S, VMNode

from qemu_node.host.process import command, identity, pidfd
from qemu_node.inventory.stopall import stop_all
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.life.machine import VM
from qemu_node.vm.life.stopladder import StopAction
from qemu_node.vm.record.outcome import POWERED_OFF, VMExit
from qemu_node.vm.supervisor import NodeStopError

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(600)]


@pytest.fixture
def image(small_guest_image: Path) -> Path:
    return small_guest_image


async def end_all(node: VMNode, timeout_s: float) -> list[StopAction | None]:
    async with asyncio.timeout(WAIT_S):
        ended = await stop_all(node.paths, timeout_s, lambda _line: None)
    assert [end.problem for end in ended] == [None] * len(ended)
    return [end.action for end in ended]


async def test_a_guest_shuts_down_cleanly_and_its_task_starts_anew(node: VMNode) -> None:
    vm = await node.start(node.request())
    await node.printed("small guest ready")
    following = await node.restarted()
    try:
        assert await end_all(node, 60) == [StopAction.GUEST_AGENT]
        assert not identity.is_alive(vm.process)
        with pytest.raises(NodeStopError):
            await following.supervisor.recover(vm.state)
        # What the guest printed at its end is not lost.
        assert "reboot: Power down" in following.console["vm"].decode(errors="replace")
        assert b"stopped with its node" in following.words["vm"]
        assert not vm.directory.data.exists()
        assert not vm.directory.run.exists()
        again = await following.start(node.request())
        assert again.exit is None
    finally:
        await following.close()


async def test_a_power_cut_is_no_end_of_the_task(node: VMNode) -> None:
    vm = await node.start(node.request())
    following = await node.restarted()
    try:
        pidfd.send_signal(vm.process, signal.SIGKILL)
        await pidfd.wait_gone(vm.process)
        earlier = msgspec.structs.replace(vm.state, boot_id="another boot")
        with pytest.raises(NodeStopError):
            await following.supervisor.recover(earlier)
        assert not vm.directory.data.exists()
    finally:
        await following.close()


async def test_a_guest_that_had_powered_off_by_itself_is_reported_so_after_the_boot(
    node: VMNode,
) -> None:
    vm = await node.start(node.request())
    following = await node.restarted()
    try:
        await power_off(vm)
        assert await end_all(node, 60) == [None]
        earlier = msgspec.structs.replace(vm.state, boot_id="another boot")
        recovered = await following.supervisor.recover(earlier)
        assert await following.ended(recovered) == POWERED_OFF
    finally:
        await following.close()


async def power_off(vm: VM) -> None:
    """Have the guest power off; QEMU keeps it."""
    async with await QmpConnection.connect(Path(vm.record.sockets.monitor)) as qmp:
        async with asyncio.timeout(WAIT_S):
            while (await commands.query_status(qmp)).status != "shutdown":
                await commands.system_powerdown(qmp)
                await asyncio.sleep(0.5)


async def test_the_end_that_a_driver_saw_while_its_node_went_down_is_the_nodes(
    node: VMNode,
) -> None:
    """A driver that an agent left behind sees the guest power off, and writes that down."""
    vm = await node.start(node.request())
    await end_all(node, 0)
    assert isinstance(await node.ended(vm), VMExit)
    assert vm.directory.node_stop_file.exists()
    following = await node.restarted()
    try:
        with pytest.raises(NodeStopError):
            await following.supervisor.recover(vm.state)
    finally:
        await following.close()


async def test_a_vm_that_survived_the_stop_of_its_node_counts_again(node: VMNode) -> None:
    vm = await node.start(node.request())
    following = await node.restarted()
    try:
        vm.directory.mark_node_stop()
        recovered = await following.supervisor.recover(vm.state)
        assert not vm.directory.node_stop_file.exists()
        pidfd.send_signal(vm.process, signal.SIGKILL)
        assert (await following.ended(recovered)).is_failure
    finally:
        await following.close()


@pytest.mark.needs_root
async def test_the_privileges_of_its_unit_are_enough(node: VMNode, tmp_path: Path) -> None:
    """What qemu-node-vms.service leaves to root, in a network namespace of its own."""
    unit = (cache.REPO / "debian/qemu-node-vms.service").read_text()
    (given,) = re.findall("(?m)^CapabilityBoundingSet=(.*)$", unit)
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in given.split())
    vm = await node.start(node.request())
    await node.printed("small guest ready")
    following = await node.restarted()
    settings = tmp_path / "node.toml"
    settings.write_text(f'[paths]\nrun = "{node.paths.run}"\ndata = "{node.paths.data}"\n')
    try:
        done = await command.run(
            [
                *("unshare", "--net", "setpriv", "--no-new-privs", f"--bounding-set=-all,{kept}"),
                *(sys.executable, "-m", "qemu_node", "--config", str(settings)),
                *("vm", "stop", "--all", "--timeout", "60s"),
            ],
            env={**command.SAFE_ENV, "PYTHONPATH": ":".join(filter(None, sys.path))},
            timeout_s=WAIT_S,
        )
        assert b"1 of 1 VMs ended: 1 by their guest agents" in done.stderr
        assert vm.directory.node_stop_file.exists()
    finally:
        await following.close()
