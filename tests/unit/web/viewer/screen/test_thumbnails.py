"""When QEMU is asked for a picture, and what somebody who asks gets.

QEMU is a connection whose screendump writes what the test says.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import msgspec
import pytest
from fakes.fake_screens import FakeFleet
from unit.web.fleet.test_model import vm

from qemu_node.errors import NodeError, QmpError
from qemu_node.qmp.connection import QmpRefusedError
from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.screen import thumbnails as module
from qemu_node.web.viewer.screen.pauses import Limits
from qemu_node.web.viewer.screen.ppm import PictureError
from qemu_node.web.viewer.screen.thumbnails import Thumbnails

VM = vm()


def screen(shade: int, width: int = 640, height: int = 480) -> bytes:
    return f"P6\n{width} {height}\n255\n".encode() + bytes([shade]) * (3 * width * height)


class DumpingQemu:
    """A QMP connection whose screendump writes `picture`, or raises it."""

    def __init__(self) -> None:
        self.picture: bytes | NodeError = screen(1)
        self.dumps = 0
        self.at_once = 0
        self.most_at_once = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._fd = -1

    async def execute(
        self, command: str, arguments: Any = None, *, timeout_s: float = 5.0, fds: Any = ()
    ) -> Any:
        if command == "add-fd":
            self._fd = os.dup(fds[0])
            return {"fd": self._fd}
        if command == "screendump":
            await self._dump(int(arguments["filename"].rpartition("/")[2]))
        return {}

    async def _dump(self, fd: int) -> None:
        self.dumps += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.001)
            await self.may_answer.wait()
            if isinstance(self.picture, NodeError):
                raise self.picture
            os.write(fd, self.picture)
        finally:
            os.close(fd)
            self.at_once -= 1


@pytest.fixture
def qemu() -> DumpingQemu:
    return DumpingQemu()


@pytest.fixture
def fleet(qemu: DumpingQemu) -> FakeFleet:
    fleet = FakeFleet()
    fleet.vms[VM.vm_id] = VM
    fleet.monitors[VM.vm_id] = qemu  # type: ignore[assignment]
    return fleet


@pytest.fixture
async def thumbnails(fleet: FakeFleet) -> AsyncIterator[Thumbnails]:
    # A busy machine must not make pictures slow.
    async with Thumbnails(fleet, limits=Limits(slow_s=1e9)) as thumbnails:
        yield thumbnails


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [1000.0]
    monkeypatch.setattr(Thumbnails, "_now_s", staticmethod(lambda: now_s[0]))
    return now_s


async def test_nothing_is_taken_until_somebody_asks(
    thumbnails: Thumbnails, qemu: DumpingQemu, fleet: FakeFleet
) -> None:
    await asyncio.sleep(0)
    assert (qemu.dumps, fleet.lent) == (0, 0)


async def test_fifty_who_ask_at_once_share_one_dump(
    thumbnails: Thumbnails, qemu: DumpingQemu
) -> None:
    found = await asyncio.gather(*[thumbnails.get(VM) for _ in range(50)])
    assert qemu.dumps == 1
    assert all(thumbnail is found[0] for thumbnail in found)


async def test_two_vms_at_a_time(
    thumbnails: Thumbnails, qemu: DumpingQemu, fleet: FakeFleet
) -> None:
    vms = [vm(vm_id=f"vm-{number:012}") for number in range(6)]
    for each in vms:
        fleet.vms[each.vm_id] = each
        fleet.monitors[each.vm_id] = qemu  # type: ignore[assignment]
    await asyncio.gather(*[thumbnails.get(each) for each in vms])
    assert (qemu.dumps, qemu.most_at_once) == (6, 2)


async def test_a_picture_is_fresh_for_a_while_then_follows_the_screen(
    thumbnails: Thumbnails, qemu: DumpingQemu, fleet: FakeFleet, clock: list[float]
) -> None:
    first = await thumbnails.get(VM)
    qemu.picture = screen(2)
    assert await thumbnails.get(VM) is first
    clock[0] += 5
    second = await thumbnails.get(VM)
    assert second.version != first.version
    clock[0] += 5
    assert await thumbnails.get(VM) is second
    assert qemu.dumps == 3
    assert fleet.pictures == [(VM.vm_id, first.version), (VM.vm_id, second.version)]


async def test_the_same_screen_is_looked_at_more_rarely_by_who_has_its_picture(
    thumbnails: Thumbnails, qemu: DumpingQemu, clock: list[float]
) -> None:
    await thumbnails.get(VM)
    for dumps, fresh_s in ((2, 9.0), (3, 18.0), (4, 36.0), (5, 36.0)):
        clock[0] += thumbnails.fresh_s(VM)
        await thumbnails.get(VM, has_one=True)
        assert qemu.dumps == dumps
        assert thumbnails.fresh_s(VM) == fresh_s
        clock[0] += 4.9
        await thumbnails.get(VM, has_one=True)
        assert qemu.dumps == dumps
        clock[0] -= 4.9


@pytest.mark.parametrize(
    ("change", "has_one"),
    [
        ({}, False),
        ({"cpu_pct": 50.0}, True),
        ({"viewers": 1}, True),
        ({"state": "unmanaged"}, True),
    ],
    ids=["has-none", "busy", "looked-at", "other-state"],
)
async def test_a_screen_that_may_differ_is_looked_at_soon(
    thumbnails: Thumbnails,
    qemu: DumpingQemu,
    clock: list[float],
    change: dict[str, Any],
    has_one: bool,
) -> None:
    for _ in range(4):
        await thumbnails.get(VM)
        clock[0] += 5
    qemu.picture = screen(2)
    await thumbnails.get(VM, has_one=True)
    assert qemu.dumps == 4
    await thumbnails.get(msgspec.structs.replace(VM, **change), has_one=has_one)
    assert qemu.dumps == 5


async def test_a_huge_screen_is_refused_and_not_asked_for_again_soon(
    thumbnails: Thumbnails, qemu: DumpingQemu, clock: list[float]
) -> None:
    qemu.picture = b"P6\n8000 4000\n255\n"
    for _ in range(3):
        with pytest.raises(PictureError, match="8000x4000"):
            await thumbnails.get(VM)
        clock[0] += 10
    assert qemu.dumps == 1
    qemu.picture = screen(1)
    clock[0] += 60
    assert (await thumbnails.get(VM)).width == 640
    assert qemu.dumps == 2


async def test_a_screen_that_has_become_huge_is_not_shown_as_it_was(
    thumbnails: Thumbnails, qemu: DumpingQemu, fleet: FakeFleet, clock: list[float]
) -> None:
    await thumbnails.get(VM)
    qemu.picture = b"P6\n8000 4000\n255\n"
    clock[0] += 5
    with pytest.raises(PictureError):
        await thumbnails.get(VM)
    assert fleet.pictures[-1] == (VM.vm_id, "")


async def test_a_qemu_that_begins_to_hang_leaves_the_last_picture(
    thumbnails: Thumbnails,
    qemu: DumpingQemu,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await thumbnails.get(VM)
    monkeypatch.setattr(module, "DEADLINE_S", 0.05)
    qemu.may_answer.clear()
    clock[0] += 5
    assert await thumbnails.get(VM) is first
    assert qemu.dumps == 2


async def test_a_large_picture_is_shown_and_the_next_one_waits(
    fleet: FakeFleet, qemu: DumpingQemu, clock: list[float]
) -> None:
    async with Thumbnails(fleet, limits=Limits(size_bytes=1000, slow_s=1e9)) as thumbnails:
        first = await thumbnails.get(VM)
        qemu.picture = screen(2)
        clock[0] += 30
        assert await thumbnails.get(VM) is first
        assert qemu.dumps == 1


async def test_a_qemu_that_hangs_is_asked_once_and_all_are_answered(
    thumbnails: Thumbnails, qemu: DumpingQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.05)
    qemu.may_answer.clear()
    found = await asyncio.gather(*[thumbnails.get(VM) for _ in range(50)], return_exceptions=True)
    assert all(isinstance(answer, QmpError) for answer in found)
    with pytest.raises(QmpError, match="made no picture"):
        await thumbnails.get(VM)
    assert qemu.dumps == 1


async def test_who_waits_too_long_for_others_pictures_is_told_so(
    thumbnails: Thumbnails, qemu: DumpingQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.05)
    qemu.may_answer.clear()
    with pytest.raises(Problem, match="no picture"):
        await thumbnails.get(VM)


async def test_a_qemu_that_is_not_connected_yet_costs_no_pause(
    thumbnails: Thumbnails, qemu: DumpingQemu, clock: list[float]
) -> None:
    qemu.picture = QmpError("QEMU cannot be asked")
    with pytest.raises(QmpError):
        await thumbnails.get(VM)
    qemu.picture = screen(1)
    clock[0] += 5
    assert (await thumbnails.get(VM)).jpeg


async def test_a_vm_without_a_screen_is_not_asked_every_time(
    thumbnails: Thumbnails, qemu: DumpingQemu, clock: list[float]
) -> None:
    qemu.picture = QmpRefusedError("screendump", "There is no console", "GenericError")
    for _ in range(3):
        with pytest.raises(QmpRefusedError):
            await thumbnails.get(VM)
        clock[0] += 10
    assert qemu.dumps == 1


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("os.memfd_create", OSError(errno.EMFILE, "Too many open files")),
        (f"{module.__name__}.make_thumbnail", MemoryError()),
        (f"{module.__name__}.make_thumbnail", ValueError("a bug")),
    ],
    ids=["descriptors", "memory", "bug"],
)
async def test_a_node_that_cannot_make_a_picture_tries_it_again_later(
    thumbnails: Thumbnails,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    error: Exception,
) -> None:
    tries = 0

    def fail(*_: object) -> NoReturn:
        nonlocal tries
        tries += 1
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(what, fail)
        for _ in range(3):
            with pytest.raises(Problem, match="could not make"):
                await thumbnails.get(VM)
            clock[0] += 10
    assert tries == 1
    clock[0] += 60
    assert (await thumbnails.get(VM)).jpeg


async def test_a_paused_guest_is_asked_once(
    thumbnails: Thumbnails, qemu: DumpingQemu, fleet: FakeFleet, clock: list[float]
) -> None:
    paused = fleet.set_state(VM.vm_id, "paused")
    for _ in range(3):
        await thumbnails.get(paused)
        clock[0] += 10
    assert qemu.dumps == 1
    await thumbnails.get(fleet.set_state(VM.vm_id, "running"))
    assert qemu.dumps == 2


@pytest.mark.parametrize(
    ("name", "data", "dumps"),
    [
        ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}, 1),
        ("GUEST_PANICKED", {"action": "pause"}, 1),
        ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"}, 0),
        ("RESET", {"guest": True}, 0),
    ],
)
async def test_the_last_screen_of_a_guest_is_taken_and_kept(
    thumbnails: Thumbnails,
    qemu: DumpingQemu,
    fleet: FakeFleet,
    name: str,
    data: dict[str, object],
    dumps: int,
) -> None:
    fleet.tell(VM.vm_id, name, **data)
    if dumps:
        assert (await thumbnails.get(VM)).jpeg
    ended = fleet.end(VM.vm_id, "the guest powered off")
    assert qemu.dumps == dumps
    if dumps:
        assert (await thumbnails.get(ended)).jpeg
        fleet.forget(VM.vm_id)
    with pytest.raises(Problem):
        await thumbnails.get(ended)
    assert qemu.dumps == dumps


async def test_a_vm_that_runs_again_does_not_show_its_former_screen(
    thumbnails: Thumbnails, qemu: DumpingQemu, fleet: FakeFleet
) -> None:
    await thumbnails.get(VM)
    fleet.end(VM.vm_id, "the guest powered off")
    fleet.monitors[VM.vm_id] = qemu  # type: ignore[assignment]
    qemu.picture = QmpError("QEMU cannot be asked")
    with pytest.raises(QmpError):
        await thumbnails.get(VM)


async def shoot(thumbnails: Thumbnails, vm_id: str = VM.vm_id) -> bytes:
    async with thumbnails.screenshot(vm_id) as picture:
        return picture


async def test_so_many_screenshots_are_held_until_they_are_sent(
    thumbnails: Thumbnails, qemu: DumpingQemu, fleet: FakeFleet
) -> None:
    qemu.picture = b"\x89PNG\r\n\x1a\n..."
    vm_ids = [f"many-00000000000{number}" for number in range(module.SHOTS_AT_A_TIME + 1)]
    for vm_id in vm_ids:
        fleet.monitors[vm_id] = qemu  # type: ignore[assignment]
    async with contextlib.AsyncExitStack() as held:
        for vm_id in vm_ids[:-1]:
            await held.enter_async_context(thumbnails.screenshot(vm_id))
        one_more = asyncio.ensure_future(shoot(thumbnails, vm_ids[-1]))
        for _ in range(50):
            await asyncio.sleep(0)
        assert (one_more.done(), qemu.dumps) == (False, module.SHOTS_AT_A_TIME)
    assert await one_more == qemu.picture


async def test_one_screenshot_of_a_vm_at_a_time(thumbnails: Thumbnails, qemu: DumpingQemu) -> None:
    qemu.picture = b"\x89PNG\r\n\x1a\n..."
    qemu.may_answer.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(shoot(thumbnails))
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="somebody else"):
            await shoot(thumbnails)
        qemu.may_answer.set()
    assert first.result() == qemu.picture
    assert await shoot(thumbnails) == qemu.picture


async def test_screenshots_that_take_long_hold_up_no_small_picture(
    thumbnails: Thumbnails, qemu: DumpingQemu, fleet: FakeFleet
) -> None:
    stuck = DumpingQemu()
    stuck.may_answer.clear()
    shots = []
    for number in range(4):
        vm_id = f"stuck-00000000000{number}"
        fleet.monitors[vm_id] = stuck  # type: ignore[assignment]
        shots.append(asyncio.ensure_future(shoot(thumbnails, vm_id)))
    await asyncio.sleep(0)
    assert (await thumbnails.get(VM)).jpeg
    assert not any(shot.done() for shot in shots)
    for shot in shots:
        shot.cancel()
    await asyncio.gather(*shots, return_exceptions=True)
