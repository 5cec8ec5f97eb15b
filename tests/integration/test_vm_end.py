"""The end of a VM is told at once, whatever else goes wrong, and by whom it was not caused."""

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from integration.vmnode import WAIT_S, VMNode

from qemu_node.errors import HostError
from qemu_node.host.files import tree
from qemu_node.host.process import identity
from qemu_node.qmp import commands as qmp_commands
from qemu_node.qmp.events import RunState, StatusInfo
from qemu_node.vm.life.machine import VM
from qemu_node.vm.life.transitions import VMPhase
from qemu_node.vm.record.outcome import FORCED_OFF, POWERED_OFF

pytestmark = [pytest.mark.needs_qemu]


@pytest.fixture
async def vm(node: VMNode) -> VM:
    return await node.start(node.request())


async def test_a_qemu_killed_by_a_real_time_signal_ends_its_vm(node: VMNode, vm: VM) -> None:
    os.kill(vm.process.pid, signal.SIGRTMIN + 1)
    outcome = await node.ended(vm)
    assert outcome.reason is not None
    assert "SIGRTMIN+1" in outcome.reason


async def test_the_end_is_told_while_the_log_is_slow(
    node: VMNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    proceed, writing = threading.Event(), threading.Event()
    written = bytearray()

    def slow(data: bytes) -> None:
        writing.set()
        proceed.wait(WAIT_S)
        written.extend(data)

    open_logs = node.supervisor._open_logs
    monkeypatch.setattr(
        node.supervisor, "_open_logs", lambda *args: replace(open_logs(*args), stdout=slow)
    )
    vm = await node.start(node.request())
    with vm.directory.serial_log.open("ab") as serial:
        serial.write(b"line\n" * 1_000_000)
    try:
        async with asyncio.timeout(WAIT_S):
            await vm.stop(0.0)
            assert vm.exit == FORCED_OFF
            assert await asyncio.to_thread(writing.wait, WAIT_S)
            # Its files stay until its last words are out.
            destroying = asyncio.ensure_future(node.supervisor.destroy(vm))
            await asyncio.sleep(0)
            assert vm.directory.serial_log.exists()
    finally:
        proceed.set()
    await destroying
    assert written.count(b"line\n") == 1_000_000


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let this process open no file more inside the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest free number is the first that would be taken.
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_vm_is_stopped_though_no_file_can_be_opened(node: VMNode, vm: VM) -> None:
    await asyncio.sleep(0)  # Its watch begins.
    # The threads that a stop uses need no file, but their start may.
    await asyncio.gather(*(asyncio.to_thread(int) for _ in range(4)))
    # It answers nothing more, so that only SIGKILL is left.
    os.kill(vm.process.pid, signal.SIGSTOP)
    with no_more_files():
        with pytest.raises(OSError, match="Too many open files"):
            os.open("/dev/null", os.O_RDONLY)
        async with asyncio.timeout(WAIT_S):
            await vm.stop(0.0)
    assert vm.exit is not None
    assert not identity.is_alive(vm.process)


async def test_the_end_of_a_guest_is_noticed_after_any_error_of_its_control_connection(
    node: VMNode, vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [RuntimeError("a fault of ours"), OSError(24, "Too many open files")]

    async def query_status(_qmp: object) -> StatusInfo:
        if answers:
            raise answers.pop(0)
        return StatusInfo(running=False, status=RunState.SHUTDOWN)

    monkeypatch.setattr(qmp_commands, "query_status", query_status)
    vm._qemu.look_again()
    assert await node.ended(vm) == POWERED_OFF
    assert answers == []


async def test_an_end_that_cannot_be_judged_is_told_as_a_failure(
    node: VMNode, vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(vm, "_judge", fail)
    os.kill(vm.process.pid, signal.SIGKILL)
    outcome = await node.ended(vm)
    assert outcome.is_failure
    assert "a fault of ours" in (outcome.reason or "")


async def test_what_ends_a_vm_after_a_stop_was_given_up_is_not_that_stop(
    node: VMNode, vm: VM
) -> None:
    stops = [asyncio.ensure_future(vm.stop(600.0)) for _ in range(2)]
    for stop in stops:
        await asyncio.sleep(0)
        assert vm.life.stops
        stop.cancel()
        await asyncio.wait({stop})
    assert not vm.life.stops
    os.kill(vm.process.pid, signal.SIGSEGV)
    outcome = await node.ended(vm)
    assert (outcome.signal, outcome.is_failure) == (signal.SIGSEGV, True)


async def test_a_stop_given_up_after_it_wrote_the_end_down_leaves_no_false_end(
    node: VMNode, vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    quitting = asyncio.Event()

    async def quit_never(_qmp: object) -> None:
        quitting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(qmp_commands, "quit", quit_never)
    stop = asyncio.ensure_future(vm.stop(4.0))
    await asyncio.wait_for(quitting.wait(), WAIT_S)
    assert vm.directory.exit_file.exists()
    stop.cancel()
    await asyncio.wait({stop})
    async with asyncio.timeout(WAIT_S):
        while vm.directory.exit_file.exists():
            await asyncio.sleep(0.01)
    assert vm.exit is None


async def test_a_vm_that_is_destroyed_twice_at_once_is_removed_once(node: VMNode, vm: VM) -> None:
    removals = await asyncio.gather(*(vm.destroy() for _ in range(3)))
    assert removals == [None] * 3
    assert vm.life.phase is VMPhase.DESTROYED


async def test_a_vm_whose_usage_cannot_be_written_does_not_slow_the_measuring(
    node: VMNode,
) -> None:
    vm = await node.start(node.request())
    vm.directory.usage_json.mkdir()
    # What it raised would make the loop wait longer each time, for all VMs.
    await node.supervisor._measure()
    [problem] = node.supervisor.problems
    assert "usage.json" in problem
    vm.directory.usage_json.rmdir()
    await node.supervisor._measure()
    assert node.supervisor.problems == []


async def test_a_vm_that_could_not_be_removed_is_removed_later(
    node: VMNode, vm: VM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise HostError(f"cannot remove {path}: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(tree, "remove_tree", fail)
        with pytest.raises(HostError):
            await node.supervisor.destroy(vm)
        await node.supervisor.reconcile()
        [problem] = node.supervisor.problems
        assert "Input/output error" in problem
    await node.supervisor.reconcile()
    assert node.supervisor.vms == []
    assert node.supervisor.problems == []
    assert node.leftovers() == []
