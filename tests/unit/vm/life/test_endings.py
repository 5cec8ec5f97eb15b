import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from qemu_node.vm.life.endings import Endings
from qemu_node.vm.life.stopladder import StopAction, descend, plan_quit, plan_stop


class Ending:
    """A QEMU that is being ended, and says when it has its turn."""

    def __init__(self, endings: Endings) -> None:
        self.has_turn = asyncio.Event()
        self.may_end = asyncio.Event()
        self.task = asyncio.ensure_future(self._run(endings))

    async def _run(self, endings: Endings) -> None:
        async with endings.turn():
            self.has_turn.set()
            await self.may_end.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_only_so_many_end_at_a_time_and_the_first_to_come_is_the_next() -> None:
    endings = Endings(at_once=2)
    all_ = [Ending(endings) for _ in range(4)]
    await settle()
    assert [ending.has_turn.is_set() for ending in all_] == [True, True, False, False]
    all_[1].may_end.set()
    await all_[2].has_turn.wait()
    assert not all_[3].has_turn.is_set()
    for ending in all_:
        ending.may_end.set()
        await ending.task


async def test_one_that_hangs_loses_its_turn_and_gives_it_back_once() -> None:
    endings = Endings(at_once=1, turn_max_s=0.0)
    hanging = Ending(endings)
    following = Ending(endings)
    await following.has_turn.wait()
    hanging.may_end.set()
    following.may_end.set()
    await asyncio.gather(hanging.task, following.task)
    assert endings._turns._value == 1


async def test_one_that_is_given_up_while_it_waits_takes_no_turn() -> None:
    endings = Endings(at_once=1)
    first, second, third = (Ending(endings) for _ in range(3))
    await settle()
    second.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second.task
    first.may_end.set()
    await third.has_turn.wait()
    third.may_end.set()
    await third.task


class Ladder:
    """Descends a ladder without a QEMU."""

    def __init__(self, ends_at: StopAction | None = None) -> None:
        self.events: list[str] = []
        self.over = asyncio.Event()
        self.free = asyncio.Event()
        self._ends_at = ends_at

    async def take(self, action: StopAction) -> None:
        self.events.append(action.value)
        if action is self._ends_at:
            self.over.set()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        self.events.append("waits")
        await self.free.wait()
        self.events.append("turn")
        yield
        self.events.append("left")

    async def descend(self, timeout_s: float | None = None) -> None:
        steps = plan_quit() if timeout_s is None else plan_stop(timeout_s)
        await descend(steps, pid=1, take=self.take, until_over=self.over.wait, turn=self.turn)


async def test_a_guest_is_asked_without_a_turn_and_qemu_ended_in_one() -> None:
    ladder = Ladder(ends_at=StopAction.QUIT)
    ladder.free.set()
    await ladder.descend(timeout_s=0.1)
    assert ladder.events == ["guest-agent", "acpi", "waits", "turn", "quit", "left"]


async def test_a_guest_that_ends_by_itself_needs_no_turn() -> None:
    ladder = Ladder(ends_at=StopAction.GUEST_AGENT)
    await ladder.descend(timeout_s=60.0)
    assert ladder.events == ["guest-agent"]


async def test_qemu_that_ends_while_it_waits_for_its_turn_is_not_told_to() -> None:
    ladder = Ladder()
    descending = asyncio.ensure_future(ladder.descend())
    await settle()
    ladder.over.set()
    ladder.free.set()
    await descending
    assert ladder.events == ["waits", "turn", "left"]


async def test_the_time_of_the_kill_counts_from_the_turn() -> None:
    ladder = Ladder(ends_at=StopAction.KILL)
    loop = asyncio.get_running_loop()
    descending = asyncio.ensure_future(
        descend(
            plan_quit(grace_s=0.05),
            pid=1,
            take=ladder.take,
            until_over=ladder.over.wait,
            turn=ladder.turn,
        )
    )
    loop.call_later(0.2, ladder.free.set)
    free_at = loop.time() + 0.2
    await descending
    assert ladder.events == ["waits", "turn", "quit", "kill", "left"]
    assert loop.time() >= free_at + 0.05
