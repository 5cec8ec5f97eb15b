"""Scopes in a real cgroup v2 hierarchy: what the kernel takes, and what it does then."""

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qemu_node.host.cgroup import Scope, ScopeLimits
from qemu_node.host.process import command, identity, pidfd
from qemu_node.host.process.command import Child
from qemu_node.host.process.privileges import launcher_argv

PATIENCE_S = 60.0
MIB = 1 << 20
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")

# Allocates the MiB of its first argument, then reads those of its second through the page cache.
EATER = """
import os, sys
kept = bytearray(int(sys.argv[1]) << 20)
for begin in range(0, len(kept), 4096):
    kept[begin] = 1
left = int(sys.argv[2]) << 20
for directory, _, names in os.walk("/usr/lib"):
    for name in names:
        path = os.path.join(directory, name)
        if left > 0 and os.path.isfile(path):
            with open(path, "rb") as file:
                while chunk := file.read(1 << 20):
                    left -= len(chunk)
"""


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


def hierarchy() -> Path:
    """Return where cgroup v2 is mounted, alone or beside v1."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(fields.split()[4])
    pytest.skip("no cgroup v2 is mounted")


def enable_controllers(directory: Path) -> None:
    for controller in CONTROLLERS:
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


@pytest.fixture
def scope_dir() -> Iterator[Path]:
    """Make a task's scope in a slice of its own, as Nomad does, and remove both."""
    root = hierarchy()
    slice_dir = root / f"qemu-node-test-{secrets.token_hex(4)}.slice"
    scope = slice_dir / "alloc.task.scope"
    try:
        enable_controllers(root)
        slice_dir.mkdir()
        enable_controllers(slice_dir)
        scope.mkdir()
    except OSError as exc:
        pytest.skip(f"no cgroup can be made: {exc}")
    yield scope
    for pid in (scope / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    eventually(lambda: not (scope / "cgroup.procs").read_text())
    scope.rmdir()
    slice_dir.rmdir()


@pytest.fixture
def spawned() -> Iterator[Callable[..., Child]]:
    """Spawn processes that end with the test."""
    children: list[Child] = []
    null = os.open(os.devnull, os.O_RDWR)

    def start(*argv: str) -> Child:
        children.append(command.spawn(argv, stderr_fd=null))
        return children[-1]

    yield start
    os.close(null)
    for child in children:
        pidfd.send_signal(child.process, signal.SIGKILL)
        while child.exit_status() is None:
            time.sleep(0.01)


def limits(memory_max_bytes: int | None = 512 * MIB, cpuset_cpus: str = "") -> ScopeLimits:
    return ScopeLimits(
        memory_max_bytes=memory_max_bytes, cpu_shares=1024, cpuset_cpus=cpuset_cpus, pids_max=300
    )


def members(scope: Path) -> set[int]:
    return {int(pid) for pid in (scope / "cgroup.procs").read_text().split()}


@pytest.mark.needs_root
def test_a_launched_process_is_in_its_scope_under_the_pid_that_was_spawned(
    scope_dir: Path, spawned: Callable[..., Child]
) -> None:
    scope = Scope.find(str(scope_dir))
    assert scope is not None
    argv = launcher_argv(["sleep", "600"], uid=200_007, gid=200_007, cgroup_procs=scope.procs_path)
    child = spawned(*argv)
    eventually(lambda: identity.command_line(child.process.pid) == ["sleep", "600"])
    assert members(scope_dir) == {child.process.pid}


@pytest.mark.needs_root
def test_the_slice_of_all_tasks_is_never_taken_for_a_scope(scope_dir: Path) -> None:
    assert Scope.find(str(scope_dir.parent)) is None


@pytest.mark.needs_root
@pytest.mark.needs_cgroup2
def test_the_kernel_takes_every_value(scope_dir: Path) -> None:
    # io.weight exists only with an I/O scheduler or cost model that knows weights.
    failures = Scope(scope_dir).apply(limits(cpuset_cpus="0"))
    assert {failure.split(":")[0] for failure in failures} <= {"io.weight"}
    values = {
        name: (scope_dir / name).read_text().strip()
        for name in limits().values()
        if (scope_dir / name).exists()
    }
    values.pop("io.weight", None)
    assert values == {
        "memory.max": str(512 * MIB),
        "memory.high": "max",
        "memory.swap.max": "max",
        "memory.oom.group": "1",
        "cpu.weight": "100",
        "cpu.max": "max 100000",
        "cpuset.cpus": "0",
        "pids.max": "300",
    }


@pytest.mark.needs_root
@pytest.mark.needs_cgroup2
def test_a_second_start_in_the_same_scope_gets_its_own_values(scope_dir: Path) -> None:
    Scope(scope_dir).apply(limits(cpuset_cpus="0"))
    (scope_dir / "cpu.max").write_text("1000 100000")
    (scope_dir / "memory.high").write_text("1048576")
    Scope(scope_dir).apply(limits(memory_max_bytes=None))
    assert (scope_dir / "cpuset.cpus").read_text().strip() == ""
    assert (scope_dir / "memory.max").read_text().strip() == "max"
    assert (scope_dir / "memory.high").read_text().strip() == "max"
    assert (scope_dir / "cpu.max").read_text().strip() == "max 100000"


@pytest.mark.needs_root
@pytest.mark.needs_cgroup2
def test_page_cache_kills_nobody_and_a_process_out_of_bounds_is_killed_and_counted(
    scope_dir: Path, spawned: Callable[..., Child]
) -> None:
    scope = Scope(scope_dir)
    scope.apply(limits(memory_max_bytes=96 * MIB))
    (scope_dir / "memory.swap.max").write_text("0")

    def eat(mebibytes: int) -> Child:
        argv = [sys.executable, "-c", EATER, str(mebibytes), "192"]
        return spawned(*launcher_argv(argv, uid=None, cgroup_procs=scope.procs_path))

    inside = eat(32)
    eventually(lambda: inside.exit_status() is not None)
    assert (inside.exit_status(), scope.oom_kills()) == (0, 0)

    outside = eat(200)
    eventually(lambda: outside.exit_status() is not None)
    assert outside.exit_status() == -signal.SIGKILL
    assert scope.oom_kills() > 0
