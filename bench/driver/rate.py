"""Goal: 50 launches, four at a time, at 0.7 of the rate of a bare loop or more.

Guests are paused before their first instruction on both sides, so that the CPU is the launches'
alone. The VMs stay until their batch is complete; preparing the bare loop's files and removing the
VMs is not timed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from bench.rig.byhand import ByHand, by_hand
from bench.rig.node import BenchDriver, StartedVM, bench_driver
from bench.setting import Setting
from bench.table import Figure, Goal

NAME = "rate"

_LAUNCHES = 50
_AT_A_TIME = 4
_ROUNDS = 3
_RATIO_MIN = 0.7


async def measure(_setting: Setting) -> list[Figure]:
    """Return both rates and their ratio, a sample a round."""
    bare: list[float] = []
    ours: list[float] = []
    async with bench_driver(is_paused=True) as driver, by_hand(driver) as hand:
        for _ in range(_ROUNDS):
            bare.append(await _bare_rate(hand))
            ours.append(await _driver_rate(driver))
    ratios = tuple(mine / other for mine, other in zip(ours, bare, strict=True))
    return [
        Figure(bench=NAME, what="bare loop", unit="1/s", samples=tuple(bare)),
        Figure(bench=NAME, what="driver", unit="1/s", samples=tuple(ours)),
        Figure(
            bench=NAME,
            what="driver / bare loop",
            unit="",
            samples=ratios,
            goal=Goal(at_least=_RATIO_MIN),
        ),
    ]


async def _bare_rate(hand: ByHand) -> float:
    directories = iter([hand.prepare() for _ in range(_LAUNCHES)])
    try:
        return await _rate(lambda: hand.start(next(directories)))
    finally:
        await hand.end_all()


async def _driver_rate(driver: BenchDriver) -> float:
    started: list[StartedVM] = []

    async def start() -> None:
        started.append(await driver.start())

    try:
        return await _rate(start)
    finally:
        await destroy_all(driver, started)


async def destroy_all(driver: BenchDriver, vms: Sequence[StartedVM]) -> None:
    """End VMs of a driver, all at once."""
    async with asyncio.TaskGroup() as group:
        for vm in vms:
            _ = group.create_task(driver.destroy(vm))


async def _rate(start: Callable[[], Awaitable[object]]) -> float:
    """Return how many starts a second there were."""
    begin = time.perf_counter()
    await start_many(start, _LAUNCHES)
    return _LAUNCHES / (time.perf_counter() - begin)


async def start_many(start: Callable[[], Awaitable[object]], count: int) -> None:
    """Call `start` so many times, four at a time."""
    turns: Iterator[int] = iter(range(count))

    async def work() -> None:
        for _ in turns:
            await start()

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_A_TIME):
            _ = group.create_task(work())
