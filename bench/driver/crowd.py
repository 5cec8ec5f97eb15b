"""Goals with 100 VMs under one plugin: its memory, its CPU for stats, what each VM adds.

The plugin: Pss at most 60 MiB, at most 0.5 MiB of it for each VM, no process but the QEMUs, and at
most 5 % of a core while Nomad waits for every VM and asks for its stats each second. The guests are
paused before their first instruction.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from bench.driver.rate import start_many
from bench.rig import procs
from bench.rig.node import BenchDriver, CannotRunError, StartedVM, bench_driver
from bench.setting import Setting
from bench.table import Figure, Goal
from qemu_node.host.process.identity import cpu_times
from qemu_node.units import MIB

NAME = "crowd"

_VMS = 100
_NEEDED_BYTES = 4096 * MIB
_WINDOWS = 3
# The driver measures every VM's Pss each 20 s: each window holds one such round.
_WINDOW_S = 20.0

_PSS_MAX_MIB = 60.0
_PSS_PER_VM_MAX_MIB = 0.5
_STATS_CPU_MAX_PCT = 5.0


async def measure(_setting: Setting) -> list[Figure]:
    """Return what 100 VMs cost beside their QEMUs.

    Raises:
        CannotRunError: the machine has too little memory for them.
    """
    if procs.meminfo_bytes("MemAvailable") < _NEEDED_BYTES:
        raise CannotRunError(f"{_VMS} QEMUs need {_NEEDED_BYTES // MIB} MiB of available memory")
    async with bench_driver(is_paused=True) as driver:
        vms = [await driver.start()]
        # Every import and first allocation is behind us with the first VM.
        pss_of_one_mib = _pss_mib(driver, vms)

        async def start() -> None:
            vms.append(await driver.start())

        await start_many(start, _VMS - 1)
        async with _watched(driver, vms):
            cpu_pct = [await _cpu_pct(driver) for _ in range(_WINDOWS)]
        pss_mib = _pss_mib(driver, vms)
        helpers = set(procs.descendants(driver.process.pid)) - {vm.process.pid for vm in vms}
    return [
        Figure(
            bench=NAME,
            what=f"plugin's Pss with {_VMS} VMs",
            unit="MiB",
            samples=(pss_mib,),
            goal=Goal(at_most=_PSS_MAX_MIB),
        ),
        Figure(
            bench=NAME,
            what="plugin's Pss for one VM more",
            unit="MiB",
            samples=((pss_mib - pss_of_one_mib) / (_VMS - 1),),
            goal=Goal(at_most=_PSS_PER_VM_MAX_MIB),
        ),
        Figure(
            bench=NAME,
            what=f"plugin's CPU, stats of {_VMS} VMs each second",
            unit="% core",
            samples=tuple(cpu_pct),
            goal=Goal(at_most=_STATS_CPU_MAX_PCT),
        ),
        Figure(
            bench=NAME,
            what="processes a VM beside QEMU",
            unit="",
            samples=(len(helpers) / _VMS,),
            goal=Goal(at_most=0),
        ),
    ]


@contextlib.asynccontextmanager
async def _watched(driver: BenchDriver, vms: list[StartedVM]) -> AsyncGenerator[None]:
    """Wait for every VM's end and read its stats each second, as an agent does."""
    async with asyncio.TaskGroup() as group:
        watchers = [group.create_task(driver.wait(vm)) for vm in vms]
        watchers += [group.create_task(driver.read_stats(vm)) for vm in vms]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.cancel()


async def _cpu_pct(driver: BenchDriver) -> float:
    loop = asyncio.get_running_loop()
    begin, before = loop.time(), _cpu_s(driver)
    await asyncio.sleep(_WINDOW_S)
    return 100 * (_cpu_s(driver) - before) / (loop.time() - begin)


def _cpu_s(driver: BenchDriver) -> float:
    times = cpu_times(driver.process)
    assert times is not None
    return times.user_s + times.system_s


def _pss_mib(driver: BenchDriver, vms: list[StartedVM]) -> float:
    files_of_qemu = {mapping.file for mapping in procs.mappings(vms[0].process.pid)}
    return procs.pss_as_if_alone(driver.process.pid, files_of_qemu) / MIB
