"""VMs on a bridge that filters VLANs: what the kernel has for them, and what is left when they go.

Real QEMUs whose guest has nothing to boot; frames are the frame matrix's matter.
"""

import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration import crashing_driver
from integration.crashing_driver import NETWORK, STARTED, alloc_id_of
from integration.vmnode import VMNode, until

from qemu_node.host.process import command
from qemu_node.host.process.pidfd import send_signal
from qemu_node.vm.names import vm_id
from qemu_node.vm.record.processes import find_vm_processes
from qemu_node.vm.start.steps import StartStep

pytestmark = [
    pytest.mark.needs_vlans,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("vlan_bridge"),
]

VLAN = 30
TASK = "1"


@pytest.fixture
async def node(vlan_bridge: None, short_tmp_path: Path, empty_image: Path) -> AsyncIterator[VMNode]:
    node = crashing_driver.bridged_node(short_tmp_path, empty_image)
    yield node
    await node.close()


def vlans() -> dict[str, set[int]]:
    """Return the VLANs of each port of the bridge."""
    shown = command.run_blocking(["bridge", "-j", "vlan", "show"]).stdout
    return {port["ifname"]: {vlan["vlan"] for vlan in port["vlans"]} for port in json.loads(shown)}


def elements() -> str:
    """Return what the filter has of TAPs, in nft's words."""
    listing = command.run_blocking(["nft", "list", "table", "bridge", "qn"]).stdout.decode()
    return "\n".join(line for line in listing.splitlines() if "elements" in line)


def ports() -> set[str]:
    return {name for name in vlans() if name.startswith("qn")}


def uplink() -> set[int]:
    return vlans().get(NETWORK.uplink, set())


def open_devices(pid: int) -> list[str]:
    """Return what a process has open."""
    return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]


async def crash(node: VMNode, point: str) -> None:
    """Let a driver whose task is in the VLAN be killed at `point`."""
    argv = [sys.executable, crashing_driver.__file__, "--vlan", str(VLAN)]
    await command.run(
        [*argv, str(node.root), str(node.image), point, TASK],
        timeout_s=120,
        env={**command.SAFE_ENV, "PYTHONPATH": ":".join(filter(None, sys.path))},
    )


async def test_a_vm_has_its_vlan_while_it_lives_and_the_uplink_as_long(node: VMNode) -> None:
    vm = await node.start(node.request(nics=(node.port(VLAN, queues=2),)))
    (tap,) = ports()
    assert vlans()[tap] == uplink() == {VLAN}
    assert open_devices(vm.process.pid).count("/dev/net/tun") == 2
    assert open_devices(vm.process.pid).count("/dev/vhost-net") == 2
    # As nft writes the number that an address is.
    assert f"{int(vm.record.nics[0].mac.replace(':', ''), 16):#x}" in elements()
    send_signal(vm.process, signal.SIGKILL)
    await node.ended(vm)
    await until(ports, lambda left: not left, "end of the TAP")
    await until(uplink, lambda left: not left, "uplink without VLANs")
    await node.supervisor.destroy(vm)
    assert elements() == ""


async def test_frames_that_are_dropped_are_counted_for_their_vm(node: VMNode) -> None:
    vm = await node.start(node.request(nics=(node.port(VLAN),)))
    (tap,) = ports()
    assert (await node.node.network.drops())[tap].keys() >= {"mac", "arp", "tag"}
    await node.supervisor.destroy(vm)
    assert await node.node.network.drops() == {}


@pytest.mark.parametrize("step", [StartStep.CGROUP, StartStep.QMP, StartStep.PUBLISH])
async def test_a_driver_killed_in_a_start_leaves_nothing_after_the_next_one_s_reconcile(
    node: VMNode, step: StartStep
) -> None:
    await crash(node, f"start {step}")
    await node.supervisor.reconcile()
    await until(ports, lambda left: not left, "end of the TAP")
    # The reconcile that killed the VM may have looked before the kernel was done with its TAP.
    await node.supervisor.reconcile()
    assert (uplink(), elements(), node.leftovers()) == (set(), "", [])


async def test_a_driver_killed_beside_its_vm_leaves_it_on_the_network(node: VMNode) -> None:
    await crash(node, STARTED)
    command.run_blocking(["bridge", "vlan", "del", "dev", NETWORK.uplink, "vid", str(VLAN)])
    await node.supervisor.reconcile()
    (tap,) = ports()
    assert vlans()[tap] == uplink() == {VLAN}
    assert tap in elements()
    # Nomad has removed the allocation: nobody will ask for the VM again.
    shutil.rmtree(node.root / "alloc" / alloc_id_of(TASK))
    assert await node.supervisor.reconcile() == [vm_id(alloc_id_of(TASK), TASK)]
    await until(ports, lambda left: not left, "end of the TAP")
    await node.supervisor.reconcile()
    assert (uplink(), elements(), node.leftovers()) == (set(), "", [])


async def test_a_qemu_killed_while_there_was_no_driver_leaves_nothing_after_a_reconcile(
    node: VMNode,
) -> None:
    await crash(node, STARTED)
    [(_, qemu)] = find_vm_processes(node.paths.vm_data_dir)
    assert uplink() == {VLAN}
    send_signal(qemu, signal.SIGKILL)
    await until(ports, lambda left: not left, "end of the TAP")
    assert uplink() == {VLAN}
    await node.supervisor.reconcile()
    assert (uplink(), elements()) == (set(), "")
