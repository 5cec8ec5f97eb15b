"""Stops and ends that go wrong: a mute agent, a mute QEMU, ends that nobody waited for."""

import asyncio
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.fake_qemu import fake_qemu_with_qmp
from fakes.fake_qga import FakeQga
from integration.vmnode import VMNode, until

from qemu_node.host.files.lock import FileLock
from qemu_node.host.process import identity, pidfd
from qemu_node.qga.agent import GuestAgent
from qemu_node.vm.life import machine
from qemu_node.vm.life import stopladder as ladder
from qemu_node.vm.life.machine import VM
from qemu_node.vm.record.outcome import FORCED_OFF, POWERED_OFF, VMExit

pytestmark = pytest.mark.timeout(120)

real_qemu = pytest.mark.needs_qemu

_FOR_EVER_S = 3600.0
"""Longer than a test may take: a stop that waits this out fails."""


async def fake_vm(node: VMNode, **behaviour: Any) -> VM:
    """Return a VM of `node` whose QEMU is a program that does what it is told."""
    node._qemu_program = fake_qemu_with_qmp(node.root, **behaviour)
    object.__setattr__(node.node, "rights", replace(node.node.rights, is_root=False))
    return await node.start(node.request())


async def stop(vm: VM, timeout_s: float) -> None:
    """Stop a VM and see that it is gone."""
    await vm.stop(timeout_s)
    assert not identity.is_alive(vm.process)
    assert vm.exit is not None


# The guest agent


@real_qemu
async def test_a_guest_that_hears_nothing_is_gone_when_the_timeout_ends(node: VMNode) -> None:
    vm = await node.start(node.request())
    await stop(vm, 3.0)
    assert vm.exit == FORCED_OFF


@pytest.mark.parametrize(
    "agent",
    [
        {"sync": "silent"},
        {"sync": "wrong-id"},
        {"sync": "no-sentinel"},
        {"flood": {"guest-sync-delimited": "noise"}},
        {"flood": {"guest-sync-delimited": "lines"}},
        {"flood": {"guest-shutdown": "noise"}},
        {"errors": {"guest-shutdown": "not now"}},
        {"disabled": ["guest-shutdown"]},
        {"hang_up": ["guest-shutdown"]},
        {"raw": {"guest-shutdown": b'{"return": {}}\n\xff[1, 2\n{"error": 7}\n'}},
        {"sync": "stale-first", "stale": b'{"return": 1}\n\xff{"return": 2}\n', "silent": []},
    ],
)
async def test_whatever_the_agent_says_the_power_button_follows_and_the_guest_is_gone(
    node: VMNode, short_tmp_path: Path, agent: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "_AGENT_TIMEOUT_S", 1.0)
    vm = await fake_vm(node)
    async with FakeQga(short_tmp_path / "agent.sock", **agent) as guest:
        vm.agent = GuestAgent(guest.path, vm.directory.qga_lock)
        # The button is pressed when the agent has failed, or has had half of the time.
        await stop(vm, 20.0)
    assert vm.exit == POWERED_OFF


async def test_a_stop_ends_as_soon_as_the_guest_is_gone(node: VMNode, short_tmp_path: Path) -> None:
    vm = await fake_vm(node)
    async with FakeQga(short_tmp_path / "agent.sock", errors={"guest-shutdown": "no"}) as guest:
        vm.agent = GuestAgent(guest.path, vm.directory.qga_lock)
        await stop(vm, _FOR_EVER_S)
    assert vm.exit == POWERED_OFF


async def test_somebody_who_keeps_the_agent_does_not_keep_the_vm(node: VMNode) -> None:
    vm = await fake_vm(node)
    with FileLock(vm.directory.qga_lock):
        await stop(vm, _FOR_EVER_S)
    assert vm.exit == POWERED_OFF


# QEMU


@real_qemu
@pytest.mark.parametrize("timeout_s", [0.0, 1.0, 4.0])
async def test_a_qemu_that_hangs_is_gone_when_the_timeout_ends(
    node: VMNode, timeout_s: float
) -> None:
    vm = await node.start(node.request())
    pidfd.send_signal(vm.process, signal.SIGSTOP)
    await stop(vm, timeout_s)


@pytest.mark.parametrize(
    "behaviour",
    [
        {"silent": ["system_powerdown", "quit"]},
        {"hang_up": ["system_powerdown", "quit"]},
        {"errors": {"system_powerdown": "no", "quit": "no"}},
        {"mid_reply": ["system_powerdown"], "obeys_powerdown": False},
    ],
)
async def test_a_qemu_that_does_not_obey_is_gone_when_the_timeout_ends(
    node: VMNode, behaviour: dict[str, Any]
) -> None:
    vm = await fake_vm(node, **behaviour)
    await stop(vm, 3.0)
    assert vm.exit == FORCED_OFF


@real_qemu
async def test_a_stop_may_be_overtaken_by_a_shorter_one(node: VMNode) -> None:
    vm = await node.start(node.request())
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(vm.stop(_FOR_EVER_S))
        await until(lambda: vm.life.stops, lambda stops: stops == 1, "stop")
        _ = group.create_task(vm.stop(0.0))
    assert vm.exit == FORCED_OFF
    await vm.stop(0.0)


@real_qemu
async def test_a_stop_that_is_cancelled_can_be_repeated(node: VMNode) -> None:
    vm = await node.start(node.request())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await vm.stop(_FOR_EVER_S)
    assert vm.exit is None
    await vm.stop(1.0)
    assert vm.exit == FORCED_OFF


@real_qemu
async def test_a_vm_without_its_run_directory_can_be_stopped_by_the_next_driver(
    node: VMNode, image: Path
) -> None:
    vm = await node.start(node.request())
    await node.crash()
    shutil.rmtree(node.paths.run_dir)
    second = VMNode(node.root, image)
    adopted = await second.supervisor.recover(vm.state)
    assert adopted.directory.vm_json.exists()
    await stop(adopted, 2.0)
    assert adopted.exit == FORCED_OFF
    await second.supervisor.destroy(adopted)
    assert second.leftovers() == []
    await second.close()


@real_qemu
@pytest.mark.parametrize("lost", ["run directory", "data directory", "allocation", "logs"])
async def test_a_vm_is_adopted_whatever_of_its_surroundings_is_lost(
    node: VMNode, image: Path, lost: str
) -> None:
    vm = await node.start(node.request())
    await node.crash()
    second = VMNode(node.root, image)
    match lost:
        case "run directory":
            shutil.rmtree(node.paths.run_dir)
            node.paths.run_dir.write_text("cannot be made again")
        case "data directory":
            shutil.rmtree(vm.directory.data)
        case "allocation":
            shutil.rmtree(vm.record.alloc_dir)
        case _:
            vm.directory.serial_log.unlink()
            vm.directory.qemu_log.unlink()
    adopted = await second.supervisor.recover(vm.state)
    assert adopted.exit is None
    await adopted.stop(1.0)
    assert not identity.is_alive(vm.process)
    await second.supervisor.destroy(adopted)
    if lost == "run directory":
        node.paths.run_dir.unlink()
    assert second.leftovers() == []
    await second.close()


# Ends


@pytest.mark.parametrize(
    ("status", "exit_code", "reason"),
    [
        ("shutdown", 0, None),
        ("guest-panicked", 1, "panic"),
        ("internal-error", 1, "internal"),
    ],
)
@pytest.mark.parametrize("obeys", [True, False])
async def test_a_guest_that_has_ended_is_found_out_and_its_qemu_ended(
    node: VMNode,
    status: str,
    exit_code: int,
    reason: str | None,
    obeys: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_QUIT_TIMEOUT_S", 0.5)
    vm = await fake_vm(node, status=status, hang_up=[] if obeys else ["quit"])
    outcome = await node.ended(vm)
    assert (outcome.exit_code, outcome.reason is None) == (exit_code, reason is None)
    assert (reason or "") in (outcome.reason or "")
    assert vm.directory.read_exit() == outcome
    assert not identity.is_alive(vm.process)


async def test_an_end_is_on_disk_before_qemu_that_knows_it_is_ended(
    node: VMNode, image: Path
) -> None:
    vm = await fake_vm(node, status="guest-panicked", silent=["quit"])
    recorded = await until(vm.directory.read_exit, lambda end: end is not None, "exit.json", 20)
    assert recorded is not None
    assert identity.is_alive(vm.process)
    await node.crash()
    pidfd.send_signal(vm.process, signal.SIGKILL)
    await pidfd.wait_gone(vm.process)
    second = VMNode(node.root, image)
    assert await second.ended(await second.supervisor.recover(vm.state)) == recorded
    await second.close()


async def test_a_crash_keeps_its_signal_for_the_driver_that_comes_after(
    node: VMNode, image: Path
) -> None:
    vm = await fake_vm(node)
    pidfd.send_signal(vm.process, signal.SIGSEGV)
    outcome = await node.ended(vm)
    assert outcome.signal == signal.SIGSEGV
    await node.crash()
    second = VMNode(node.root, image)
    assert await second.ended(await second.supervisor.recover(vm.state)) == outcome
    await second.close()


@real_qemu
async def test_a_qemu_that_leaves_slowly_after_a_stop_has_not_failed(
    node: VMNode, image: Path
) -> None:
    vm = await node.start(node.request())
    await node.crash()
    # The driver was killed right after `quit`; QEMU frees a large guest, which takes seconds.
    vm.directory.write_exit(FORCED_OFF)
    pidfd.send_signal(vm.process, signal.SIGSTOP)
    second = VMNode(node.root, image)
    adopted = await second.supervisor.recover(vm.state)
    assert adopted.exit is None
    pidfd.send_signal(vm.process, signal.SIGKILL)
    assert await second.ended(adopted) == FORCED_OFF
    await second.close()


@real_qemu
async def test_a_stop_that_was_never_finished_is_not_taken_for_the_end(
    node: VMNode, image: Path
) -> None:
    vm = await node.start(node.request())
    await node.crash()
    vm.directory.write_exit(FORCED_OFF)
    second = VMNode(node.root, image)
    adopted = await second.supervisor.recover(vm.state)
    await until(
        vm.directory.exit_file.exists, lambda exists: not exists, "removal of exit.json", 20
    )
    pidfd.send_signal(vm.process, signal.SIGKILL)
    outcome = await second.ended(adopted)
    assert outcome.is_failure
    await second.close()


async def test_a_vm_that_ended_and_was_cleaned_up_is_recovered_as_ended(
    node: VMNode, image: Path
) -> None:
    vm = await fake_vm(node)
    await node.crash()
    pidfd.send_signal(vm.process, signal.SIGKILL)
    await pidfd.wait_gone(vm.process)
    vm.directory.remove()
    shutil.rmtree(vm.record.alloc_dir)
    second = VMNode(node.root, image)
    recovered = await second.supervisor.recover(vm.state)
    outcome: VMExit = await second.ended(recovered)
    assert outcome.is_failure
    await second.supervisor.destroy(recovered)
    assert second.leftovers() == []
    await second.close()
