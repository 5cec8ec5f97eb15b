"""A VM in the cgroup v2 scope that Nomad makes for its task; runs where there is cgroup v2."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from integration.vmnode import VMNode, until

from qemu_node.host.cgroup import ScopeLimits
from qemu_node.units import MIB
from qemu_node.vm.life.machine import VM

pytestmark = [pytest.mark.needs_cgroup2, pytest.mark.needs_root, pytest.mark.needs_qemu]

SLICES = Path("/sys/fs/cgroup/nomad.slice/share.slice")
CONTROLLERS = "+cpuset +cpu +io +memory +pids"


@pytest.fixture
def scope() -> Iterator[Path]:
    """A scope as Nomad 2.0.6 makes it: there before the start, empty, all controllers."""
    SLICES.mkdir(parents=True, exist_ok=True)
    for parent in (SLICES.parent.parent, SLICES.parent, SLICES):
        (parent / "cgroup.subtree_control").write_text(CONTROLLERS)
    scope = SLICES / "11111111-2222-3333-4444-555555555555.vm.scope"
    scope.mkdir()
    yield scope
    (scope / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + 30
    while scope.exists() and time.monotonic() < deadline:
        # Busy until the last killed process has left it.
        with contextlib.suppress(OSError):
            scope.rmdir()
        time.sleep(0.05)


async def start(node: VMNode, scope: Path, *, cpuset: str = "") -> VM:
    limits = ScopeLimits(
        memory_max_bytes=1024 * MIB, cpu_shares=1024, cpuset_cpus=cpuset, pids_max=500
    )
    return await node.start(replace(node.request(), scope=str(scope), limits=limits))


def read(scope: Path, name: str) -> str:
    return (scope / name).read_text().strip()


async def test_qemu_runs_in_the_scope_from_its_first_page(node: VMNode, scope: Path) -> None:
    vm = await start(node, scope)
    assert str(vm.process.pid) in read(scope, "cgroup.procs").split()
    # Charged from its exec on: what QEMU has of its own is in there, not in the driver's cgroup.
    assert int(read(scope, "memory.current")) > 8 * MIB


async def test_every_limit_is_written_at_every_start(node: VMNode, scope: Path) -> None:
    (scope / "memory.max").write_text("512M")
    (scope / "cpu.max").write_text("10000 100000")
    (scope / "pids.max").write_text("9")
    await start(node, scope, cpuset="0")
    assert read(scope, "memory.max") == str(1024 * MIB)
    assert read(scope, "memory.oom.group") == "1"
    assert read(scope, "cpu.max").split()[0] == "max"
    assert read(scope, "cpu.weight") == "100"
    assert read(scope, "cpuset.cpus") == "0"
    assert read(scope, "pids.max") == "500"


async def test_the_oom_kills_of_earlier_starts_are_written_down_at_a_start(
    node: VMNode, scope: Path
) -> None:
    vm = await start(node, scope)
    before = vm.state.oom_kills
    (scope / "memory.swap.max").write_text("0")
    with contextlib.suppress(OSError):
        (scope / "memory.max").write_text(str(4 * MIB))
    async with asyncio.timeout(60):
        await vm.wait()
    await node.supervisor.destroy(vm)
    vm = await start(node, scope)
    assert vm.state.oom_kills is not None
    assert before is not None
    assert vm.state.oom_kills > before


async def test_an_oom_kill_is_reported_as_one(node: VMNode, scope: Path) -> None:
    vm = await start(node, scope)
    (scope / "memory.swap.max").write_text("0")
    with contextlib.suppress(OSError):
        (scope / "memory.max").write_text(str(4 * MIB))
    async with asyncio.timeout(60):
        outcome = await vm.wait()
    assert outcome.oom_killed
    assert outcome.reason
    assert "memory" in outcome.reason


async def test_a_scope_that_is_killed_from_outside_ends_the_vm_and_nothing_else(
    node: VMNode, scope: Path
) -> None:
    vm = await start(node, scope)
    (scope / "cgroup.kill").write_text("1")
    await until(lambda: vm.exit, lambda outcome: outcome is not None, "end")
    assert vm.exit is not None
    assert vm.exit.signal == 9
