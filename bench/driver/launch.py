"""Goal: what the driver adds to the start of a QEMU, image cached, p50: at most 60 ms.

StartTask to its answer, which comes when QMP has said that the guest runs, over gRPC as from
Nomad; against the same command line started by hand until query-status is answered. One after the
other and in turns, so that both see the same machine.
"""

from bench.rig.byhand import by_hand
from bench.rig.node import bench_driver
from bench.setting import Setting
from bench.table import Figure, Goal

NAME = "launch"

_PAIRS = 20
_ADDED_MAX_MS = 60.0


async def measure(_setting: Setting) -> list[Figure]:
    """Return the latencies and their difference."""
    async with bench_driver(is_paused=False) as driver:
        first = await driver.start()
        await driver.destroy(first)
        driver_ms: list[float] = []
        bare_ms: list[float] = []
        async with by_hand(driver) as hand:
            for _ in range(_PAIRS):
                bare_ms.append(1000 * await hand.start(hand.prepare()))
                await hand.end_all()
                vm = await driver.start()
                driver_ms.append(1000 * vm.took_s)
                await driver.destroy(vm)
    added_ms = tuple(ours - bare for ours, bare in zip(driver_ms, bare_ms, strict=True))
    return [
        Figure(bench=NAME, what="by hand to QMP", unit="ms", samples=tuple(bare_ms)),
        Figure(bench=NAME, what="StartTask to QMP", unit="ms", samples=tuple(driver_ms)),
        Figure(
            bench=NAME,
            what="added by the driver",
            unit="ms",
            samples=added_ms,
            goal=Goal(at_most=_ADDED_MAX_MS),
        ),
        Figure(
            bench=NAME,
            what="first StartTask of a driver",
            unit="ms",
            samples=(1000 * first.took_s,),
        ),
    ]
