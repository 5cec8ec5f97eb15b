from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes.fake_qmp import FakeQmp
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import HostError, QmpError
from qemu_node.host.files.space import DiskSpace
from qemu_node.host.process.identity import ProcessId
from qemu_node.qmp import commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import QmpEvent
from qemu_node.units import GIB, Share
from qemu_node.vm.life import diskguard
from qemu_node.vm.life.diskguard import (
    POLL_S,
    ROOM_BYTES,
    DiskGuard,
    calls_for_a_look,
    may_go_on,
    next_hold_s,
)
from qemu_node.vm.life.usage import DiskState, UsageMeter, read_usage
from qemu_node.vm.record.directory import VMDirectory

RESERVE = Share(pct=10)
FULL = DiskSpace(free_bytes=0, total_bytes=100 * GIB)
ROOMY = DiskSpace(free_bytes=50 * GIB, total_bytes=100 * GIB)


def blocks(*io_statuses: str | None) -> dict[str, Any]:
    """Return what QEMU says of its disks, devices that know no status among them."""
    return {
        "query-block": [
            {"device": "", "type": "unknown", "inserted": {"file": "x"}}
            | ({} if status is None else {"io-status": status})
            for status in io_statuses
        ]
    }


@dataclass
class Bench:
    """A guard whose disk, clock and QEMU are the test's."""

    directory: VMDirectory
    space: DiskSpace | HostError = FULL
    now_s: float = 1000.0
    told: list[str] = field(default_factory=list)

    def guard(self, disk: DiskState = DiskState()) -> DiskGuard:  # noqa: B008 - frozen
        meter = UsageMeter(ProcessId(pid=2**22 + 1, start_time=1), disk)
        return DiskGuard(
            self.directory,
            meter,
            reserve=RESERVE,
            tell=lambda text, _notes: self.told.append(text),
            clock=lambda: self.now_s,
        )

    @asynccontextmanager
    async def qemu(
        self, status: str = "io-error", *, io: tuple[str | None, ...] = (None, "nospace")
    ) -> AsyncIterator[tuple[FakeQmp, QmpConnection]]:
        async with (
            FakeQmp(self.directory.run / "q", status=status, replies=blocks(*io)) as qemu,
            await QmpConnection.connect(qemu.path) as connection,
        ):
            yield qemu, connection

    @property
    def written(self) -> DiskState | None:
        usage = read_usage(self.directory.usage_json)
        return None if usage is None else usage.disk


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    directory = VMDirectory(data=tmp_path / "d", run=tmp_path / "r")
    directory.run.mkdir()
    bench = Bench(directory)

    def read_space(_path: Path) -> DiskSpace:
        if isinstance(bench.space, HostError):
            raise bench.space
        return bench.space

    monkeypatch.setattr(diskguard, "read_space", read_space)
    return bench


async def look(guard: DiskGuard, connection: QmpConnection) -> float | None:
    return await guard.look(connection, await commands.query_status(connection))


async def test_a_guest_without_trouble_is_left_alone(bench: Bench) -> None:
    guard = bench.guard()
    for status in ("running", "paused", "suspended", "shutdown"):
        async with bench.qemu(status) as (qemu, connection):
            assert await look(guard, connection) is None
            assert qemu.commands == ["query-status"]
    assert bench.told == []
    assert bench.written is None


async def test_a_guest_that_waits_is_told_once_written_down_and_polled(bench: Bench) -> None:
    guard = bench.guard()
    async with bench.qemu() as (qemu, connection):
        for _ in range(3):
            assert await look(guard, connection) == POLL_S
        assert "cont" not in qemu.commands
    assert guard.is_waiting
    assert len(bench.told) == 1
    assert bench.written is not None
    assert (bench.written.is_full, bench.written.pauses) == (True, 1)
    assert bench.written.paused_at is not None


async def test_it_goes_on_when_there_is_room_beyond_the_reserve(bench: Bench) -> None:
    guard = bench.guard()
    async with bench.qemu() as (qemu, connection):
        await look(guard, connection)
        bench.space = DiskSpace(free_bytes=10 * GIB, total_bytes=100 * GIB)
        assert await look(guard, connection) == POLL_S
        bench.space = ROOMY
        assert await look(guard, connection) is None
        assert qemu.commands[-1] == "cont"
        assert await look(guard, connection) is None
    assert not guard.is_waiting
    assert len(bench.told) == 2
    assert bench.written == DiskState(is_full=False, pauses=1)


async def test_the_next_driver_tells_nothing_twice(bench: Bench) -> None:
    guard = bench.guard(DiskState(is_full=True, pauses=3, paused_at=5.0))
    async with bench.qemu() as (_, connection):
        assert await look(guard, connection) == POLL_S
        assert bench.told == []
        bench.space = ROOMY
        await look(guard, connection)
    assert [text.split(":")[0] for text in bench.told] == ["VM goes on"]
    assert bench.written == DiskState(is_full=False, pauses=3)


async def test_a_guest_that_somebody_else_continued_goes_on_for_us_too(bench: Bench) -> None:
    guard = bench.guard()
    async with bench.qemu() as (qemu, connection):
        await look(guard, connection)
        qemu.status = "running"
        assert await look(guard, connection) is None
    assert not guard.is_waiting
    assert len(bench.told) == 2


@pytest.mark.parametrize("io", [("failed",), (None,), (), ("ok", "failed")])
async def test_another_error_of_a_disk_is_not_taken_for_a_full_one(
    bench: Bench, io: tuple[str | None, ...]
) -> None:
    bench.space = ROOMY
    guard = bench.guard()
    async with bench.qemu(io=io) as (qemu, connection):
        assert await look(guard, connection) is None
        assert "cont" not in qemu.commands
    assert bench.told == []


async def test_a_guest_that_stops_again_at_once_is_held_longer_each_time(bench: Bench) -> None:
    bench.space = ROOMY
    guard = bench.guard()
    async with bench.qemu() as (qemu, connection):

        async def continued_after() -> float:
            qemu.status = "io-error"
            begin_s = bench.now_s
            while await look(guard, connection) is not None:
                bench.now_s += 0.5
            return bench.now_s - begin_s

        waits = [await continued_after() for _ in range(10)]
        bench.now_s += 3600
        assert await continued_after() == 0.0
    assert waits[:4] == [0.0, 2.0, 4.0, 8.0]
    assert max(waits) == 300.0


async def test_a_disk_that_cannot_be_asked_is_asked_again(bench: Bench) -> None:
    bench.space = HostError("the disk hangs")
    guard = bench.guard()
    async with bench.qemu() as (_, connection):
        assert await look(guard, connection) == POLL_S
        bench.space = ROOMY
        assert await look(guard, connection) is None


async def test_a_run_directory_that_is_gone_does_not_keep_a_guest_paused(bench: Bench) -> None:
    guard = bench.guard()
    async with bench.qemu() as (_, connection):
        bench.directory = VMDirectory(data=bench.directory.data, run=Path("/no/such/directory"))
        guard = bench.guard()
        assert await look(guard, connection) == POLL_S
        bench.space = ROOMY
        assert await look(guard, connection) is None
    assert len(bench.told) == 2


@pytest.mark.parametrize("reply", [{}, "x", [7], [{"io-status": 7}]])
async def test_a_malformed_list_of_disks_changes_nothing(bench: Bench, reply: object) -> None:
    guard = bench.guard()
    async with (
        FakeQmp(
            bench.directory.run / "q", status="io-error", replies={"query-block": reply}
        ) as qemu,
        await QmpConnection.connect(qemu.path) as connection,
    ):
        with pytest.raises(QmpError, match="query-block"):
            await look(guard, connection)
    assert bench.told == []
    assert not guard.is_waiting


def event(name: str, **data: object) -> QmpEvent:
    return QmpEvent(name=name, data=data)


@pytest.mark.parametrize(
    ("seen", "is_call"),
    [
        (event("STOP"), True),
        (event("BLOCK_IO_ERROR", operation="write", action="stop", nospace=True), True),
        (event("BLOCK_IO_ERROR", operation="write", action="report"), False),
        (event("BLOCK_IO_ERROR", operation="write"), False),
        (event("BLOCK_IO_ERROR", operation=7, action="stop"), False),
        (event("RESUME"), False),
        (event("RTC_CHANGE", offset=1), False),
    ],
)
def test_only_what_may_have_stopped_the_guest_calls_for_a_look(
    seen: QmpEvent, *, is_call: bool
) -> None:
    assert calls_for_a_look(seen) is is_call


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_hold_is_bounded_and_forgotten_after_a_calm_minute(hold_s: float, ran_s: float) -> None:
    held = next_hold_s(hold_s, ran_s)
    assert 0.0 <= held <= 300.0
    assert (held == 0.0) == (ran_s >= 60.0)


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.floats(0, 100))
def test_room_is_more_than_a_new_start_needs(free: int, total: int, pct: float) -> None:
    space, reserve = DiskSpace(free_bytes=free, total_bytes=total), Share(pct=pct)
    if may_go_on(space, reserve):
        assert space.has_room(0, reserve)
    assert not may_go_on(DiskSpace(free_bytes=ROOM_BYTES - 1, total_bytes=total), Share())
