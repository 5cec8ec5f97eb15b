"""The plugin's process: `qemu-node driver`, started by Nomad or by `qemu-node run`.

Owns wiring the driver to its server and the process's standard streams. No logic.
"""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from qemu_node.config.node import default_paths, load
from qemu_node.host.allocator import keep_one_arena
from qemu_node.host.concurrency.looptime import timed_loop
from qemu_node.host.openfiles import raise_limit
from qemu_node.nomad.driver.driver import VMDriver
from qemu_node.nomad.driver.identity import VMPlugin
from qemu_node.nomad.driver.runtime import NodeHost
from qemu_node.nomad.plugin import log as plugin_log
from qemu_node.nomad.plugin.server import serve

log = logging.getLogger(__name__)

LOG_LEVEL_ENV = "QEMU_NODE_LOG_LEVEL"


def run_driver(*, config_path: Path | None, stop_with_parent: bool) -> None:
    """Be the plugin until the agent ends it; the VMs go on.

    Args:
        config_path: node.toml, unless the agent's plugin block names another.
        stop_with_parent: Stop all VMs of this process and leave when stdin ends, as it does when
            `qemu-node run` is killed. Nomad's plugins keep stdin of the agent and ignore it.

    Raises:
        HandshakeError: no agent started this process.
        HostError: the plugin's socket can be made nowhere.
    """
    # An agent that ignores it would have us never learn how a child ended (man 2 waitpid).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    level = logging.getLevelNamesMapping().get(os.environ.get(LOG_LEVEL_ENV, "INFO").upper())
    plugin_log.configure(logging.INFO if level is None else level)
    keep_one_arena()
    raise_limit()
    with asyncio.Runner(loop_factory=timed_loop) as runner:
        runner.run(_run(config_path, stop_with_parent=stop_with_parent))


async def _run(config_path: Path | None, *, stop_with_parent: bool) -> None:
    host = NodeHost(config_path)
    stop = asyncio.Event()
    try:
        if stop_with_parent:
            _ = host.tasks.start(_stop_at_end_of_stdin(host, stop), name="parent")
        # `qemu-node run` cancels a StartTask that it no longer wants; Nomad waits for it.
        driver = VMDriver(host, waits_for_images=stop_with_parent)
        await serve(VMPlugin(host), driver, run_dirs=_run_dirs(config_path), stop=stop)
    finally:
        await host.aclose()


def _run_dirs(config_path: Path | None) -> list[Path]:
    """Return where the plugin's socket can go, the best first.

    The agent has not sent its settings yet. An error in node.toml is reported by the fingerprint,
    for which the agent must reach the plugin.
    """
    usual = default_paths().run_dir
    try:
        named = load(config_path).paths.run_dir
    except Exception:  # as above
        log.debug("node.toml not read", exc_info=True)
        return [usual]
    return [named, usual]


async def _stop_at_end_of_stdin(host: NodeHost, stop: asyncio.Event) -> None:
    """Wait for the parent's end, then end what it started."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    log.warning("parent is gone: stopping its VMs")
    await host.destroy_all()
    stop.set()
