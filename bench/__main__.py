"""`python -m bench`: run the benches and print what they found.

Exit code 0: every goal that was measured is met; 1: one was missed, or a bench broke; 2: wrong
usage.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from bench import original, system
from bench.console import goals as console
from bench.driver import crowd, job, launch, many, memory, rate, ready
from bench.images import goals as images
from bench.network import goals as network
from bench.rig.agent import JobFailedError
from bench.rig.node import CannotRunError
from bench.setting import Setting, find_nomad
from bench.table import Figure, NotMeasured, Report, render_table, report_json
from qemu_node.errors import MissingPartError, NodeError
from qemu_node.qemu.accel.qemubinary import find_qemu

# In order: the benches after `original` compare themselves with its figures.
_BENCHES: Mapping[str, Callable[[Setting], Awaitable[Sequence[Figure | NotMeasured]]]] = {
    original.NAME: original.measure,
    launch.NAME: launch.measure,
    rate.NAME: rate.measure,
    ready.NAME: ready.measure,
    crowd.NAME: crowd.measure,
    many.NAME: many.measure,
    memory.NAME: memory.measure,
    job.NAME: job.measure,
    images.NAME: images.measure,
    network.NAME: network.measure,
    console.NAME: console.measure,
    system.NAME: system.measure,
}

_FAILURES = (NodeError, JobFailedError, OSError)
"""What the product, Nomad or the machine does wrong."""


def main(arguments: Sequence[str]) -> int:
    """Run what `arguments` ask for and return the exit code."""
    options = _parse(arguments)
    setting = Setting(nomad=find_nomad(), original_dir=options.original)
    report = asyncio.run(_run(options.only or list(_BENCHES), setting))
    print(report_json(report) if options.json else render_table(report))
    return 0 if report.is_good else 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure the performance goals."
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with every sample")
    parser.add_argument(
        "--original",
        type=Path,
        metavar="DIR",
        help="a checkout of the project this one replaces, to measure side by side",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(_BENCHES),
        metavar="NAME",
        help=f"run these alone: {', '.join(_BENCHES)}",
    )
    return parser.parse_args(arguments)


async def _run(names: Sequence[str], setting: Setting) -> Report:
    figures: list[Figure] = []
    not_measured: list[NotMeasured] = []
    for name, measure in _BENCHES.items():
        if name not in names:
            continue
        begin = time.monotonic()
        print(f"bench: {name} …", end="", file=sys.stderr, flush=True)
        try:
            for found in await measure(setting):
                if isinstance(found, Figure):
                    figures.append(found)
                else:
                    not_measured.append(found)
            print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr)
        except (CannotRunError, MissingPartError) as exc:
            not_measured.append(NotMeasured(bench=name, reason=str(exc), is_failure=False))
            print(" skipped", file=sys.stderr)
        except (*_FAILURES, ExceptionGroup) as exc:
            not_measured.append(NotMeasured(bench=name, reason=_reason(exc), is_failure=True))
            print(" failed", file=sys.stderr)
    return Report(
        machine=await _machine(), figures=tuple(figures), not_measured=tuple(not_measured)
    )


def _reason(failure: Exception) -> str:
    """Return what to tell of a bench that broke; a fault of the bench itself is raised."""
    if not isinstance(failure, ExceptionGroup):
        return str(failure)
    if failure.split(_FAILURES)[1] is not None:
        raise failure
    return str(failure.exceptions[0])


async def _machine() -> str:
    """Return what the figures depend on, on one line."""
    try:
        version = (await find_qemu("qemu-system-x86_64")).version
        qemu = f"QEMU {version}"
    except NodeError as exc:
        qemu = str(exc)
    system = os.uname()
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} CPUs, Linux {system.release}, {qemu}, load at the end {load:.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
