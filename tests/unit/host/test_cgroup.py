import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.host.cgroup import Scope, ScopeLimits, cpu_weight, memory_backstop_bytes

MIB = 1 << 20
FILES = [
    *("memory.max", "memory.high", "memory.swap.max", "memory.oom.group"),
    *("cpu.weight", "cpu.max", "cpuset.cpus", "io.weight", "pids.max"),
    *("cgroup.procs", "cgroup.controllers"),
]


@pytest.fixture
def scope_dir(tmp_path: Path) -> Path:
    path = tmp_path / "share.slice" / "abc.task.scope"
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).touch()
    return path


def limits(**changes: object) -> ScopeLimits:
    values = {"memory_max_bytes": 512 * MIB, "cpu_shares": 1024, "cpuset_cpus": "", "pids_max": 300}
    return ScopeLimits(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shares", "weight"),
    [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 2),
        (1024, 100),
        (262_143, 10_000),
        (262_144, 10_000),
        (10**9, 10_000),
    ],
)
def test_cpu_weight_is_that_of_runc(shares: int, weight: int) -> None:
    # utils_test.go, TestConvertCPUSharesToCgroupV2Value; but 0, there "unset", is the least here.
    assert cpu_weight(shares) == weight


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_cpu_weight_is_one_the_kernel_takes_and_grows_with_the_shares(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 1 <= cpu_weight(low) <= cpu_weight(high) <= 10_000


@given(st.integers(1 * MIB, 1 << 44))
def test_the_backstop_leaves_room_above_the_task(memory_bytes: int) -> None:
    room = memory_backstop_bytes(memory_bytes) - memory_bytes
    assert room >= 256 * MIB
    assert room >= memory_bytes // 8


def test_apply_writes_every_value_also_those_of_an_earlier_run(scope_dir: Path) -> None:
    for name in FILES:
        (scope_dir / name).write_text("left over from before, and long")
    scope = Scope.find(str(scope_dir))
    assert scope is not None
    assert scope.apply(limits(cpuset_cpus="2,3")) == ()
    # A plain file keeps the tail of a longer old content; a cgroup file does not.
    written = {name: (scope_dir / name).read_text().split("\n")[0] for name in FILES}
    assert written == {
        "memory.max": str(512 * MIB),
        "memory.high": "max",
        "memory.swap.max": "max",
        "memory.oom.group": "1",
        "cpu.weight": "100",
        "cpu.max": "max",
        "cpuset.cpus": "2,3",
        "io.weight": "default 100",
        "pids.max": "300",
        "cgroup.procs": written["cgroup.procs"],
        "cgroup.controllers": written["cgroup.controllers"],
    }


def test_no_reserved_cpus_is_an_empty_line_that_clears_those_of_before(scope_dir: Path) -> None:
    Scope(scope_dir).apply(limits())
    assert (scope_dir / "cpuset.cpus").read_text() == "\n"


def test_no_memory_limit_is_max(scope_dir: Path) -> None:
    Scope(scope_dir).apply(limits(memory_max_bytes=None))
    assert (scope_dir / "memory.max").read_text() == "max\n"


def test_what_cannot_be_written_is_reported_and_the_rest_written(scope_dir: Path) -> None:
    (scope_dir / "io.weight").unlink()
    (scope_dir / "memory.max").unlink()
    assert Scope(scope_dir).apply(limits()) == (
        "memory.max: no such file or directory",
        "io.weight: no such file or directory",
    )
    assert (scope_dir / "pids.max").read_text() == "300\n"
    assert not (scope_dir / "io.weight").exists()


@pytest.mark.parametrize("case", ["", "missing", "v1", "slice"])
def test_without_a_scope_of_its_own_there_is_none_and_the_log_says_why(
    case: str, tmp_path: Path, scope_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    v1 = tmp_path / "cpuset" / "nomad" / "share.scope"
    v1.mkdir(parents=True)
    (v1 / "cgroup.procs").touch()
    (scope_dir.parent / "cgroup.controllers").touch()
    paths = {"": "", "missing": "/no/such.scope", "v1": str(v1), "slice": str(scope_dir.parent)}
    reasons = {"": "made no", "missing": "not exist", "v1": "cgroup v1", "slice": "one task"}
    assert Scope.find(paths[case]) is None
    (record,) = caplog.records
    assert reasons[case] in record.__dict__["reason"]


def test_a_scope_that_may_not_be_written_is_not_used(
    scope_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert Scope.find(str(scope_dir)) is None


def test_oom_kills_are_read_from_the_scopes_events(scope_dir: Path) -> None:
    scope = Scope(scope_dir)
    assert scope.oom_kills() == 0
    (scope_dir / "memory.events").write_text("low 0\nmax 7\noom 1\noom_kill 3\noom_group_kill 1\n")
    assert scope.oom_kills() == 3
