"""`python -m bench.console.fleets`: what the daemon costs with VMs and a page; prints `ConsoleRun`.

Few: QEMUs of the product's driver whose guests idle. Many: QEMUs whose guests change their screens
every second, enough to fill a window of the browser, and VMs without a QEMU for the rest. The page
is that of all VMs, in Chromium; what the browser costs is its user's, and not counted.

To be run with the tests' directory in PYTHONPATH.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec

from bench.console import served
from bench.console.browser import Chromium, chromium
from bench.console.facts import ConsoleRun, FleetRun, PageRun
from bench.rig import procs
from bench.rig.node import DOTS, HALT, CannotRunError, StartedVM, bench_driver
from qemu_node.errors import NodeError
from qemu_node.host.process.command import Child
from qemu_node.units import MIB

_FEW = 50
_MANY = 500
_SEEN = 24
"""More than a window shows."""
_FIRST_SEEN = 12
_NEEDED_BYTES = 4096 * MIB
_WINDOWS = 3
_WINDOW_S = 20.0
"""A driver measures every VM once in it."""
_SETTLE_S = 15.0
_QUIET_POLL_S = 2.0
_QUIET_S = 0.1
"""CPU time of all QEMUs in that time once no firmware runs any more, a QEMU."""
_VISITS = 5
_UPDATES = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fleet:
    """A node with VMs and the daemon."""

    vms: int
    qemus: Sequence[int]
    """Process ids."""
    daemon: Child
    url: str

    def cpu_s(self) -> tuple[float, float]:
        """Return the CPU time so far of the daemon, and of all QEMUs."""
        qemu_s = sum(procs.cpu_s(pid) for pid in self.qemus)
        return procs.cpu_s(self.daemon.process.pid), qemu_s

    def pss_mib(self) -> float:
        """Return the daemon's memory."""
        files_of_qemu = {mapping.file for mapping in procs.mappings(self.qemus[0])}
        return procs.pss_as_if_alone(self.daemon.process.pid, files_of_qemu) / MIB


@asynccontextmanager
async def _fleet(qemus: int, others: int, boot_code: bytes) -> AsyncGenerator[_Fleet]:
    async with AsyncExitStack() as stack:
        driver = await stack.enter_async_context(bench_driver(is_paused=False, boot_code=boot_code))
        vms = [await driver.start() for _ in range(qemus)]
        if others:
            _ = await stack.enter_async_context(served.peers(driver.node, others))
        await _firmware_has_ended(vms)
        child, url = await stack.enter_async_context(served.daemon(driver.node))
        pids = [vm.process.pid for vm in vms]
        yield _Fleet(vms=qemus + others, qemus=pids, daemon=child, url=url)


async def _firmware_has_ended(vms: Sequence[StartedVM]) -> None:
    def cpu_s() -> float:
        return sum(procs.cpu_s(vm.process.pid) for vm in vms)

    async with asyncio.timeout(600):
        before = cpu_s()
        while True:
            await asyncio.sleep(_QUIET_POLL_S)
            if (now := cpu_s()) - before < _QUIET_S * len(vms):
                return
            before = now


async def _measure_fleet(fleet: _Fleet, browser: Chromium) -> FleetRun:
    daemon: tuple[list[float], list[float]] = ([], [])
    qemu: tuple[list[float], list[float]] = ([], [])
    await asyncio.sleep(_SETTLE_S)
    await _windows(fleet.cpu_s, daemon[0], qemu[0])
    async with browser.visitor() as visitor:
        _ = await visitor.visit(fleet.url, cards=fleet.vms)
        await visitor.see_pictures(_FIRST_SEEN)
        await asyncio.sleep(_SETTLE_S)
        pictures = visitor.pictures
        await _windows(fleet.cpu_s, daemon[1], qemu[1])
        pictures = visitor.pictures - pictures
        pss_mib = fleet.pss_mib()
    return FleetRun(
        vms=fleet.vms,
        daemon_alone_pct=daemon[0],
        daemon_page_pct=daemon[1],
        qemu_alone_pct=qemu[0],
        qemu_page_pct=qemu[1],
        pss_mib=pss_mib,
        pictures=pictures,
    )


async def _windows(
    cpu_s: Callable[[], tuple[float, float]], daemon_pct: list[float], qemu_pct: list[float]
) -> None:
    clock = asyncio.get_running_loop().time
    for _ in range(_WINDOWS):
        began, before = clock(), cpu_s()
        await asyncio.sleep(_WINDOW_S)
        took, after = clock() - began, cpu_s()
        daemon_pct.append(100 * (after[0] - before[0]) / took)
        qemu_pct.append(100 * (after[1] - before[1]) / took)


async def _measure_page(fleet: _Fleet, browser: Chromium) -> PageRun:
    run = PageRun(first_view_kb=[], pictures_kb=[], usable_ms=[], usable_cpu_ms=[], update_ms=[])
    for _ in range(_VISITS):
        async with browser.visitor() as visitor:
            drawn_ms, cpu_ms = await visitor.visit(fleet.url, cards=fleet.vms)
            run.usable_ms.append(drawn_ms)
            run.usable_cpu_ms.append(cpu_ms)
            await visitor.see_pictures(_FIRST_SEEN)
            run.first_view_kb.append(visitor.received_kb())
            run.pictures_kb.append(visitor.received_kb(pictures_only=True))
    async with browser.visitor() as visitor:
        _ = await visitor.visit(fleet.url, cards=fleet.vms)
        await visitor.see_pictures(_FIRST_SEEN)
        vm_ids = await visitor.page.evaluate(
            "[...document.querySelectorAll('.card > a')].map((a) => a.hash.split('/')[2])"
        )
        for number in range(_UPDATES):
            run.update_ms.append(await visitor.update(_delta(vm_ids, number)))
    return run


def _delta(vm_ids: Sequence[str], number: int) -> dict[str, object]:
    """Return new figures of all VMs, other ones for each `number`."""
    return {
        "changed": {
            vm_id: {
                "cpu_pct": (7 * at + 13 * number) % 100 + 0.5,
                "memory": {
                    "min_bytes": 512 * MIB,
                    "max_bytes": 4096 * MIB,
                    "plugged_bytes": 2048 * MIB,
                    "used_bytes": (at + 100 * number) % 2000 * MIB,
                    "pss_bytes": (at + 100 * number) % 1500 * MIB,
                },
            }
            for at, vm_id in enumerate(vm_ids)
        }
    }


async def main() -> None:
    """Measure and print what was found."""
    if procs.meminfo_bytes("MemAvailable") < _NEEDED_BYTES:
        raise CannotRunError(f"{_FEW} QEMUs need {_NEEDED_BYTES // MIB} MiB of available memory")
    async with chromium() as browser:
        async with _fleet(_FEW, 0, HALT) as fleet:
            few = await _measure_fleet(fleet, browser)
        async with _fleet(_SEEN, _MANY - _SEEN, DOTS) as fleet:
            many = await _measure_fleet(fleet, browser)
            page = await _measure_page(fleet, browser)
    print(msgspec.json.encode(ConsoleRun(few=few, many=many, page=page)).decode())


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (NodeError, OSError, CannotRunError) as exc:
        sys.exit(str(exc))
