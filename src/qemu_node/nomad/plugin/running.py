"""The plugins that Nomad agents of this machine have started: found, and ended to be started again.

Owns finding and ending them. An agent starts its plugin again at once and has its VMs recovered by
it (tests/e2e/test_nomad.py). A plugin of `qemu-node run` is left alone: its VMs end with it.
"""

import asyncio
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from qemu_node.host.files.lock import held_locks, is_locked
from qemu_node.host.process import identity, pidfd
from qemu_node.host.process.identity import ProcessId
from qemu_node.nomad.plugin.handshake import lock_path, plugins_dir

log = logging.getLogger(__name__)

STOP_WITH_PARENT = "--stop-with-parent"
"""The option with which `qemu-node run` starts its plugin."""


def find_plugins(run_dir: Path) -> list[ProcessId]:
    """Return the plugins of agents whose sockets are below `run_dir`; empty without root.

    A plugin is known by the lock that it holds on a file named after its pid.
    """
    return [
        process
        for pid in _locked_pids(plugins_dir(run_dir))
        if (process := identity.identify(pid)) is not None
        and STOP_WITH_PARENT not in identity.command_line(pid)
    ]


def _locked_pids(root: Path) -> Iterator[int]:
    locks = held_locks()
    # OSError: no plugin has run here, or the directory is another user's.
    with suppress(OSError):
        for path in sorted(root.glob("*.lock")):
            name = path.name.removesuffix(".lock")
            if name.isdecimal() and is_locked(lock_path(root / name), locks):
                yield int(name)


async def end_plugins(plugins: Sequence[ProcessId], *, timeout_s: float) -> list[ProcessId]:
    """Tell `plugins` to end, and return those that have not after `timeout_s`."""
    for plugin in plugins:
        pidfd.send_signal(plugin, signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for plugin in plugins:
                await pidfd.wait_gone(plugin)
    return [plugin for plugin in plugins if identity.is_alive(plugin)]
