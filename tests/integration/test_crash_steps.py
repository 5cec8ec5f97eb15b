"""SIGKILL of the driver at each step of a start and of a stop, and what the next one makes of it.

Real QEMUs whose guest has nothing to boot. `node` is the driver that comes after the crash.
"""

import shutil
import sys
from pathlib import Path

import pytest
from integration import crashing_driver
from integration.crashing_driver import STARTED, alloc_id_of
from integration.vmnode import VMNode

import qemu_node
from qemu_node.host.process import command, identity
from qemu_node.vm.life.machine import VM
from qemu_node.vm.life.stopladder import StopAction
from qemu_node.vm.names import vm_id
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.leases import lease_uid
from qemu_node.vm.record.outcome import FORCED_OFF
from qemu_node.vm.record.record import VMState
from qemu_node.vm.start.request import VMRequest
from qemu_node.vm.start.steps import StartStep

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(300)]

_TESTS = Path(__file__).parents[1]
_SRC = Path(qemu_node.__file__).parents[1]

SAME = "1"
"""The task that goes on after the crash."""
UID = 4_000_000
"""A user that nothing here runs as."""
GONE = "2"
"""The task that nobody asks for again."""


async def crash(node: VMNode, point: str) -> None:
    """Let two drivers, each with a VM, be killed at `point`."""
    await command.run(
        [
            *(sys.executable, crashing_driver.__file__, str(node.root), str(node.image)),
            *(point, SAME, GONE),
        ],
        env={**command.SAFE_ENV, "PYTHONPATH": f"{_TESTS}:{_SRC}"},
        timeout_s=120,
    )


def request(node: VMNode, task: str) -> VMRequest:
    return node.request(task=task, alloc_id=alloc_id_of(task))


def id_of(task: str) -> str:
    return vm_id(alloc_id_of(task), task)


def state_of(node: VMNode, task: str) -> VMState:
    state = VMDirectory.of(node.paths, id_of(task)).read_state()
    assert state is not None
    return state


async def finish(node: VMNode, vm: VM) -> None:
    """Destroy the one VM that there still is, and see that nothing else was."""
    assert node.running() == {vm.record.vm_id}
    await node.supervisor.destroy(vm)
    assert node.leftovers() == []
    assert node.running() == set()


@pytest.mark.parametrize("step", StartStep)
async def test_a_driver_killed_during_a_start_leaves_nothing_that_lasts(
    node: VMNode, step: StartStep
) -> None:
    await crash(node, f"start {step}")
    vm = await node.start(request(node, SAME))
    assert identity.is_alive(vm.process)
    # The claim is what makes the first directory.
    left = [] if step is StartStep.CLAIM else [id_of(GONE)]
    assert await node.supervisor.reconcile() == left
    assert await node.supervisor.reconcile() == []
    await finish(node, vm)


async def test_a_vm_whose_driver_was_killed_right_after_its_start_is_adopted(node: VMNode) -> None:
    await crash(node, STARTED)
    # Nomad may yet ask for either.
    assert await node.supervisor.reconcile() == []
    vm = await node.supervisor.recover(state_of(node, SAME))
    assert vm.exit is None
    assert vm.directory.vm_json.exists()
    # Nomad has dropped the allocation of the other.
    shutil.rmtree(node.root / "alloc" / alloc_id_of(GONE))
    assert await node.supervisor.reconcile() == [id_of(GONE)]
    await finish(node, vm)


async def test_a_vm_whose_driver_was_killed_right_after_its_start_is_replaced_by_a_new_start(
    node: VMNode,
) -> None:
    await crash(node, STARTED)
    old = state_of(node, SAME).record.process
    vm = await node.start(request(node, SAME))
    assert not identity.is_alive(old)
    await node.supervisor.destroy(await node.supervisor.recover(state_of(node, GONE)))
    await finish(node, vm)


@pytest.mark.parametrize("step", StopAction)
async def test_a_driver_killed_during_a_stop_leaves_a_vm_that_can_be_stopped(
    node: VMNode, step: StopAction
) -> None:
    await crash(node, f"stop {step}")
    vm = await node.supervisor.recover(state_of(node, SAME))
    assert identity.is_alive(vm.process)
    await vm.stop(1.0)
    assert vm.exit == FORCED_OFF
    shutil.rmtree(node.root / "alloc" / alloc_id_of(GONE))
    assert await node.supervisor.reconcile() == [id_of(GONE)]
    await node.supervisor.destroy(vm)
    assert node.leftovers() == []
    assert node.running() == set()


@pytest.mark.needs_root
@pytest.mark.parametrize("left", ["data", "run", "lease", "empty lease", "temporary"])
async def test_whatever_part_of_a_vm_is_left_goes(node: VMNode, left: str) -> None:
    directory = VMDirectory.of(node.paths, id_of(SAME))
    vm_data_dir = node.paths.vm_data_dir
    match left:
        case "data":
            directory.create_data()
            directory.overlay.touch()
        case "run":
            # The data directory is made before and removed after it.
            directory.create_data()
            directory.create_run(None)
            directory.vm_json.touch()
        case "lease":
            lease_uid(vm_data_dir, id_of(SAME), UID, 1).close()
        case "empty lease":
            (vm_data_dir / ".uid").mkdir(parents=True)
            (vm_data_dir / ".uid" / str(UID)).touch()
        case _:
            directory.create_data()
            (directory.data / ".tmp-0123456789abcdef").write_bytes(bytes(100))
    await node.supervisor.reconcile()
    assert node.leftovers() == []
