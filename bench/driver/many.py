"""Goals with 300 VMs of one job under a real Nomad agent, on two CPUs.

All run within 15 s of `nomad job run`, the driver that follows a killed one has recovered all of
them within 1 s, all are gone within 10 s of their stop. The driver uses at most 60 MiB, looks at
all VMs within 2 s, and keeps no event waiting for longer than 100 ms. The guests are paused
before their first instruction.
"""

import asyncio
import re
import signal
import time
from collections.abc import Callable, Sequence

from bench.rig import procs
from bench.rig.agent import Agent, time_job
from bench.rig.node import BenchNode, CannotRunError, bench_node
from bench.rig.vmjob import plugins, vm_agent, write_job
from bench.setting import Setting
from bench.table import Figure, Goal
from qemu_node.config.node import Paths
from qemu_node.host.concurrency.looptime import BUSY_EVENT
from qemu_node.host.files.lock import held_locks
from qemu_node.host.process.identity import ProcessId, is_alive
from qemu_node.host.process.pidfd import send_signal
from qemu_node.units import MIB
from qemu_node.vm.reconcile import Reconciler
from qemu_node.vm.record.record import VMRecord

NAME = "many"

_VMS = 300
_MIB_OF_A_VM = 32
_JOB = "many"
# The driver looks at all VMs each minute, and measures each of them every 20 s.
_IDLE_S = 65.0
_POLL_S = 0.02
_BUSY = re.compile(rf"{BUSY_EVENT}.*\bms=(\d+)")
_LIMIT_S = 120.0

_RUNNING_MAX_S = 15.0
_RECOVERED_MAX_S = 1.0
_STOPPED_MAX_S = 10.0
_RECONCILED_MAX_S = 2.0
_WAIT_MAX_MS = 100.0
_PSS_MAX_MIB = 60.0


async def measure(setting: Setting) -> list[Figure]:
    """Return how long the driver takes for many VMs.

    Raises:
        CannotRunError: no Nomad, not root, or too little memory.
    """
    nomad = setting.require_nomad()
    needed = _VMS * _MIB_OF_A_VM
    if procs.meminfo_bytes("MemAvailable") < needed * MIB:
        raise CannotRunError(f"{_VMS} QEMUs need {needed} MiB of available memory")
    with bench_node(is_paused=True) as node:
        async with vm_agent(nomad, node) as agent:
            try:
                return await _measure(agent, node)
            finally:
                await agent.stop_job(_JOB)


async def _measure(agent: Agent, node: BenchNode) -> list[Figure]:
    (plugin,) = plugins(agent)
    _ = agent.take_log()
    job_file = write_job(node, _JOB, count=_VMS)
    timed = await time_job(agent, job_file, _JOB, node.published_at, _VMS)
    waits = [_wait_figure(agent, "while all start")]
    await asyncio.sleep(_IDLE_S)
    waits.append(_wait_figure(agent, "while all run"))
    vms = [node.record(path.name) for path in (node.run_dir / "vm").iterdir()]
    pss_mib = _pss_mib(plugin, vms)
    recovered_s = await _recovery(node, plugin, vms)
    waits.append(_wait_figure(agent, "while all are recovered"))
    reconciled_s = await _reconcile(node)
    stopped_s = await _stop(agent, vms)
    waits.append(_wait_figure(agent, "while all stop"))
    return [
        _figure(f"`nomad job run` to the last of {_VMS} VMs", timed.delays_s[-1], _RUNNING_MAX_S),
        _figure("SIGKILL of the driver to the last recovered", recovered_s, _RECOVERED_MAX_S),
        _figure("stop of all to the end of the last", stopped_s, _STOPPED_MAX_S),
        _figure("a look at all VMs", reconciled_s, _RECONCILED_MAX_S),
        _figure(f"plugin's Pss with {_VMS} VMs", pss_mib, _PSS_MAX_MIB, unit="MiB"),
        *waits,
    ]


def _figure(what: str, sample: float, at_most: float, *, unit: str = "s") -> Figure:
    return Figure(bench=NAME, what=what, unit=unit, samples=(sample,), goal=Goal(at_most=at_most))


def _wait_figure(agent: Agent, when: str) -> Figure:
    """Return the longest turn of the driver's event loop since the last call.

    The driver logs those above 100 ms; 0 stands for none.
    """
    longest_ms = max((_busy_ms(line) for line in agent.take_log()), default=0)
    return _figure(f"longest wait of the loop {when}", longest_ms, _WAIT_MAX_MS, unit="ms")


def _busy_ms(line: str) -> int:
    match = _BUSY.search(line)
    return 0 if match is None else int(match[1])


async def _recovery(node: BenchNode, plugin: ProcessId, vms: Sequence[VMRecord]) -> float:
    """Kill the driver and return how long nobody held some of the VMs."""
    directories = {(node.data_dir / "vm" / vm.vm_id).stat().st_ino for vm in vms}
    begin = time.perf_counter()
    send_signal(plugin, signal.SIGKILL)

    def are_held() -> bool:
        return directories <= {inode for _, _, inode in held_locks()}

    await _poll(lambda: not is_alive(plugin) and are_held())
    return time.perf_counter() - begin


async def _reconcile(node: BenchNode) -> float:
    """Return how long a driver takes to look at all VMs; here each is another driver's."""
    begin = time.perf_counter()
    paths = Paths(run=str(node.run_dir), data=str(node.data_dir))
    removed = await Reconciler(paths).run()
    assert not removed, "the driver holds them all"
    return time.perf_counter() - begin


async def _stop(agent: Agent, vms: Sequence[VMRecord]) -> float:
    """Stop the job and return when its last QEMU was gone."""
    begin = time.perf_counter()
    stopping = asyncio.ensure_future(agent.stop_job(_JOB))
    await _poll(lambda: not any(is_alive(vm.process) for vm in vms))
    took_s = time.perf_counter() - begin
    await stopping
    return took_s


async def _poll(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while not is_so():  # noqa: ASYNC110 - the kernel tells of neither
            await asyncio.sleep(_POLL_S)


def _pss_mib(plugin: ProcessId, vms: Sequence[VMRecord]) -> float:
    files_of_qemu = {mapping.file for mapping in procs.mappings(vms[0].pid)}
    return procs.pss_as_if_alone(plugin.pid, files_of_qemu) / MIB
