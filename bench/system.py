"""Goals of the node's system: it is up soon after plain Debian, and leaves its memory to VMs.

Boot: from the kernel's start to Nomad, with its drivers, at most 1.3 times what plain Debian 13
takes to its login prompt, on the same emulated machine in the same run. Memory: MemTotal less
MemAvailable with Nomad and our services at most 450 MiB.

`systeminside` measures, with the tests' emulated server; this module owns goals and figures.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.rig.node import CannotRunError
from bench.setting import Setting
from bench.table import Figure, Goal
from qemu_node.host.process import command

NAME = "system"

OUTPUT_ENV = "OS_IMAGE"
"""The directory of what `make iso` built."""

_REPO = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 7200.0
"""The system is installed first where no test has done so."""

_BOOT_MAX = 1.3
_MEMORY_MAX_MIB = 450


class SystemRun(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, one value of each a round; seconds since the kernel's start."""

    debian_login_s: tuple[float, ...]
    node_login_s: tuple[float, ...]
    nomad_s: tuple[float, ...]
    """The agent has started, which waits for the first look at its drivers."""
    memory_mib: tuple[float, ...]


async def measure(_setting: Setting) -> list[Figure]:
    """Return the figures.

    Raises:
        CannotRunError: there is no image.
        NodeError: something broke.
    """
    directory = os.environ.get(OUTPUT_ENV)
    if not directory:
        raise CannotRunError(
            f"the node's system is not built: make iso NOMAD=… ELEMENTAL=…, then {OUTPUT_ENV}=out"
        )
    if os.geteuid() != 0:
        raise CannotRunError("building the guests to compare with needs root")
    done = await command.run(
        [sys.executable, "-m", "bench.systeminside", directory],
        timeout_s=_TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_REPO / "tests"), *sys.path])},
    )
    return figures(msgspec.json.decode(done.stdout, type=SystemRun))


def figures(run: SystemRun) -> list[Figure]:
    """Return what was found, with its goals."""
    ratios = [ours / theirs for ours, theirs in zip(run.nomad_s, run.debian_login_s, strict=True)]
    return [
        _figure("plain Debian 13: kernel to login", "s", run.debian_login_s),
        _figure("node: kernel to login", "s", run.node_login_s),
        _figure("node: kernel to Nomad", "s", run.nomad_s),
        _figure("Nomad / Debian's login", "", ratios, Goal(at_most=_BOOT_MAX)),
        _figure("node's memory with Nomad", "MiB", run.memory_mib, Goal(at_most=_MEMORY_MAX_MIB)),
    ]


def _figure(what: str, unit: str, samples: Sequence[float], goal: Goal | None = None) -> Figure:
    return Figure(bench=NAME, what=what, unit=unit, samples=tuple(samples), goal=goal)
