"""Goals of the console: a relay that costs little, a daemon that idles, a page that is there soon.

Relay: at least as fast as the original's Go program, no more CPU a GB than websockify with the same
transport, one process whatever number of viewers, at most 2 ms more p99 with 20 idle viewers
beside. Daemon with a page open: 50 idle VMs at most 0.5 % of a core and 60 MiB; 500 VMs at most
120 MiB, and for the pictures, QEMU's share counted, 5 % of a core. Page: at most 150 kB
compressed, usable within a second; new figures on 500 cards at most 100 ms of the browser's main
thread.

What `relay` and `fleets` measure, each in a process of its own, is judged here.
"""

import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.console.facts import (
    ORIGINAL,
    OURS,
    OURS_TLS,
    WEBSOCKIFY,
    WEBSOCKIFY_TLS,
    ConsoleRun,
    FleetRun,
    PageRun,
    RelayRun,
)
from bench.rig.node import CannotRunError
from bench.setting import Setting
from bench.table import Figure, Goal, NotMeasured
from qemu_node.host.process import command

NAME = "console"

_REPO = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 1500.0
_NAMESPACES = ["unshare", "--net", "--mount"]

_SPEED_MIN = 1.0
_CPU_MAX = 1.0
_ADDED_MAX_MS = 2.0
_IDLE_MAX_PCT = 0.5
_PICTURES_MAX_PCT = 5.0
_FEW_MAX_MIB, _MANY_MAX_MIB = 60.0, 120.0
_FIRST_VIEW_MAX_KB = 150.0
_USABLE_MAX_MS = 1000.0
_UPDATE_MAX_MS = 100.0

T = TypeVar("T")


async def measure(setting: Setting) -> list[Figure | NotMeasured]:
    """Return the figures of relay, daemon and page.

    Raises:
        CannotRunError: the original cannot be measured without root.
        ProcessError: one of the programs ended; its last words are in the message.
    """
    checkout = setting.original_dir
    if checkout is not None and os.geteuid() != 0:
        raise CannotRunError("the original's program needs root: it has a network of its own")
    relays = ["bench.console.relay.inside"]
    if checkout is not None:
        relays.append(str(checkout.resolve()))
    relay = await _run(relays, RelayRun, apart=checkout is not None)
    console = await _run(["bench.console.fleets"], ConsoleRun, apart=False)
    return [*relay_figures(relay), *missing_figures(relay), *console_figures(console)]


async def _run(argv: Sequence[str], kind: type[T], *, apart: bool) -> T:
    done = await command.run(
        [*(_NAMESPACES if apart else ()), sys.executable, "-m", *argv],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_REPO / "tests"), *sys.path])},
        timeout_s=_TIMEOUT_S,
    )
    return msgspec.json.decode(done.stdout, type=kind)


def relay_figures(run: RelayRun) -> Iterator[Figure]:
    """Yield what relays cost, and how late ours is: pure."""
    for name, rates in run.rates.items():
        yield _figure(f"relay, {name}", "MB/s", rates.mb_s)
        yield _figure(f"relay, {name}: CPU", "s/GB", rates.cpu_s_per_gb)
    ours = run.rates[OURS]
    if ORIGINAL in run.rates:
        speeds = _ratios(ours.mb_s, run.rates[ORIGINAL].mb_s)
        yield _figure("ours / the original's: MB/s", "", speeds, Goal(at_least=_SPEED_MIN))
    for name, other in ((OURS, WEBSOCKIFY), (OURS_TLS, WEBSOCKIFY_TLS)):
        if other in run.rates:
            cpu = _ratios(run.rates[name].cpu_s_per_gb, run.rates[other].cpu_s_per_gb)
            yield _figure(f"{name} / {other}: CPU", "", cpu, Goal(at_most=_CPU_MAX))
    yield _figure(
        "processes of ours for three viewers", "", [float(ours.processes)], Goal(at_most=1)
    )
    p99 = [_p99(times) for times in run.relayed_ms]
    yield _figure("there and back through ours, 20 idle: p99", "ms", p99)
    added = [there - bare for there, bare in zip(p99, map(_p99, run.direct_ms), strict=True)]
    yield _figure("added p99", "ms", added, Goal(at_most=_ADDED_MAX_MS))


def missing_figures(run: RelayRun) -> Iterator[NotMeasured]:
    """Yield the relays that were not measured."""
    for name, reason in run.missing.items():
        yield NotMeasured(bench=NAME, reason=f"relay, {name}: {reason}", is_failure=False)


def console_figures(run: ConsoleRun) -> Iterator[Figure]:
    """Yield what daemon and page cost: pure."""
    few, many = run.few, run.many
    yield _figure(
        f"daemon's CPU, {few.vms} idle VMs and a page",
        "% core",
        few.daemon_page_pct,
        Goal(at_most=_IDLE_MAX_PCT),
    )
    yield _figure("… nobody looks", "% core", few.daemon_alone_pct)
    yield _figure("… its Pss", "MiB", [few.pss_mib], Goal(at_most=_FEW_MAX_MIB))
    yield _figure(
        f"pictures of {many.vms} VMs for a page, with QEMU",
        "% core",
        _added(many),
        Goal(at_most=_PICTURES_MAX_PCT),
    )
    yield _figure("… of which QEMU", "% core", _qemu_added(many))
    yield _figure("… new pictures in that time", "", [float(many.pictures)])
    yield _figure(f"daemon's CPU, {many.vms} VMs and a page", "% core", many.daemon_page_pct)
    yield _figure("… nobody looks", "% core", many.daemon_alone_pct)
    yield _figure("… its Pss", "MiB", [many.pss_mib], Goal(at_most=_MANY_MAX_MIB))
    yield from _page_figures(run.page, many.vms)


def _page_figures(page: PageRun, cards: int) -> Iterator[Figure]:
    yield _figure(
        f"first view of {cards} VMs", "kB", page.first_view_kb, Goal(at_most=_FIRST_VIEW_MAX_KB)
    )
    yield _figure("… of which pictures", "kB", page.pictures_kb)
    yield _figure("… usable after", "ms", page.usable_ms, Goal(at_most=_USABLE_MAX_MS))
    yield _figure("… its main thread's CPU by then", "ms", page.usable_cpu_ms)
    yield _figure(
        f"new figures on {cards} cards, main thread",
        "ms",
        page.update_ms,
        Goal(at_most=_UPDATE_MAX_MS),
    )


def _added(run: FleetRun) -> list[float]:
    """Return what an open page costs, daemon and QEMU together."""
    alone_pct = statistics.median(run.daemon_alone_pct)
    daemon_pct = (pct - alone_pct for pct in run.daemon_page_pct)
    return [sum(both) for both in zip(daemon_pct, _qemu_added(run), strict=True)]


def _qemu_added(run: FleetRun) -> list[float]:
    alone_pct = statistics.median(run.qemu_alone_pct)
    return [pct - alone_pct for pct in run.qemu_page_pct]


def _figure(what: str, unit: str, samples: Iterable[float], goal: Goal | None = None) -> Figure:
    return Figure(bench=NAME, what=what, unit=unit, samples=tuple(samples), goal=goal)


def _ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, others, strict=True)]


def _p99(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=100)[98]
