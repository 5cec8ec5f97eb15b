"""`qemu-node vm stop --all`: what it prints, and that nothing keeps it from ending VMs.

Owns the wording, and where VMs are looked for if node.toml is wrong. Does not own ending them
(`inventory.stopall`).
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from qemu_node.cli.errortext import EXIT_ERROR, show_error
from qemu_node.cli.main import App
from qemu_node.cli.terminal import print_json, waiting
from qemu_node.errors import ConfigError
from qemu_node.vm.life.stopladder import StopAction

if TYPE_CHECKING:
    from qemu_node.config.node import Paths
    from qemu_node.inventory.stopall import Ended


def stop_every_vm(app: App, timeout_s: float, *, as_json: bool) -> int:
    """End every VM, print how, and return the exit status: 0 if none is left."""
    from qemu_node.inventory.stopall import stop_all

    paths = _find_paths(app)
    with waiting("stopping all VMs") as tell:
        ended = asyncio.run(stop_all(paths, timeout_s, tell))
    if as_json:
        print_json(to_json(ended))
    else:
        click.echo(summary(ended), err=True)
    return EXIT_ERROR if any(end.problem for end in ended) else 0


def _find_paths(app: App) -> "Paths":
    """Return where VMs are; the defaults if node.toml is wrong, as a shutdown does not wait."""
    from qemu_node.config.node import default_paths

    try:
        return app.load_config().paths
    except ConfigError as exc:
        show_error(exc, app.arguments)
        paths = default_paths()
        click.echo(f"looking for VMs in {paths.vm_run_dir} and {paths.vm_data_dir}", err=True)
        return paths


def to_json(ended: "Sequence[Ended]") -> list[object]:
    """Return what `--json` prints: pure."""
    return [
        {
            "vm_id": end.vm.vm_id,
            "name": end.vm.name,
            "by": end.action,
            "problem": end.problem,
        }
        for end in ended
    ]


def summary(ended: "Sequence[Ended]") -> str:
    """Return how many VMs ended how, on one line: pure."""
    if not ended:
        return "no VM runs on this machine"
    left = sum(1 for end in ended if end.problem)
    counts = Counter(end.action for end in ended if not end.problem)
    forced = counts[StopAction.QUIT] + counts[StopAction.KILL]
    parts = [
        (counts[StopAction.GUEST_AGENT], "by their guest agents"),
        (counts[StopAction.ACPI], "by the power button"),
        (forced, "by force"),
        (counts[None], "had ended already"),
    ]
    how = ", ".join(f"{count} {words}" for count, words in parts if count)
    text = f"{len(ended) - left} of {len(ended)} VMs ended"
    return f"{text}: {how}" if how else text
