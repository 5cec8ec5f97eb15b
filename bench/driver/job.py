"""Goal: of a job's eight VMs the last is there within 1.3 of the time of the first.

From the start of the command `nomad job run` to a VM's QMP, under a real agent. The driver writes
vm.json as soon as QMP has said that the guest runs; the file's time is the VM's. Also what a VM
costs under Nomad beside its QEMU: the agent has no process for it.

Where there are fewer CPUs than VMs, the last VM waits for the CPUs that start the other QEMUs. How
long is measured in the same run, with the same command lines started by hand: the ratio that is
judged everywhere is that of the last VM's time to the first VM's plus this wait. Where there are
enough CPUs, the ratio without the wait is judged as well.
"""

import asyncio
import os
import time
from pathlib import Path

from bench.rig import procs
from bench.rig.agent import Agent, TimedJob, time_job
from bench.rig.byhand import by_hand
from bench.rig.node import BenchNode, bench_driver, bench_node
from bench.rig.vmjob import plugins, vm_agent, write_job
from bench.setting import Setting
from bench.table import Figure, Goal

NAME = "job"

_VMS = 8
_ROUNDS = 3
_LAST_TO_FIRST_MAX = 1.3


async def measure(setting: Setting) -> list[Figure]:
    """Return the times of the first and last VM, and the helpers of each.

    Raises:
        CannotRunError: no Nomad, or not root.
    """
    nomad = setting.require_nomad()
    with bench_node(is_paused=True) as node:
        helpers: list[float] = []
        async with vm_agent(nomad, node) as agent:
            runs = [
                await _run(agent, node, f"bench-{number}", helpers) for number in range(_ROUNDS)
            ]
    spreads_s = await _spreads_by_hand()
    plain_goal = Goal(at_most=_LAST_TO_FIRST_MAX) if (os.cpu_count() or 1) >= _VMS else None
    return [
        Figure(
            bench=NAME,
            what="`nomad job run` to the first VM's QMP",
            unit="s",
            samples=tuple(run.delays_s[0] for run in runs),
        ),
        Figure(
            bench=NAME,
            what=f"… to the QMP of the last of {_VMS}",
            unit="s",
            samples=tuple(run.delays_s[-1] for run in runs),
        ),
        Figure(
            bench=NAME,
            what="last / first",
            unit="",
            samples=tuple(run.last_to_first for run in runs),
            goal=plain_goal,
        ),
        Figure(
            bench=NAME,
            what=f"by hand, {_VMS} at once: the last's QMP after the first's",
            unit="s",
            samples=tuple(spreads_s),
        ),
        Figure(
            bench=NAME,
            what="last / (first + that)",
            unit="",
            samples=tuple(
                run.delays_s[-1] / (run.delays_s[0] + spread_s)
                for run, spread_s in zip(runs, spreads_s, strict=True)
            ),
            goal=Goal(at_most=_LAST_TO_FIRST_MAX),
        ),
        Figure(
            bench=NAME,
            what="processes a VM beside QEMU, of the agent and the plugin",
            unit="",
            samples=tuple(helpers),
            goal=Goal(at_most=0),
        ),
    ]


async def _spreads_by_hand() -> list[float]:
    """Return how long after the first of eight QEMUs the last is there; seconds, one a round."""
    spreads_s: list[float] = []

    async def end_of_start(directory: Path) -> float:
        _ = await hand.start(directory)
        return time.perf_counter()

    async with bench_driver(is_paused=True) as driver, by_hand(driver) as hand:
        for _ in range(_ROUNDS):
            directories = [hand.prepare() for _ in range(_VMS)]
            moments = await asyncio.gather(*map(end_of_start, directories))
            spreads_s.append(max(moments) - min(moments))
            await hand.end_all()
    return spreads_s


async def _run(agent: Agent, node: BenchNode, name: str, helpers: list[float]) -> TimedJob:
    job_file = write_job(node, name, count=_VMS)
    try:
        timed = await time_job(agent, job_file, name, node.published_at, _VMS)
        helpers.append(_helpers(agent, node) / _VMS)
    finally:
        await agent.stop_job(name)
    return timed


def _helpers(agent: Agent, node: BenchNode) -> int:
    """Return how many processes there are below the agent but the plugin and the QEMUs."""
    vms = {node.record(path.name).pid for path in (node.run_dir / "vm").iterdir()}
    ours = vms | {plugin.pid for plugin in plugins(agent)}
    return len(set(procs.descendants(agent.child.process.pid)) - ours)
