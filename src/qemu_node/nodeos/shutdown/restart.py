"""Restarting the node into another image: its work is moved or ended cleanly first.

Owns the order: drain, then restart. The shutdown itself ends every VM that is still there.
"""

from collections.abc import Callable

from qemu_node.errors import NodeError
from qemu_node.host.process.command import run
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.shutdown.drain import drain

_TIMEOUT_S = 60.0

Tell = Callable[[str], None]


async def restart(
    paths: NodePaths, *, reason: str, drain_timeout_s: float | None, tell: Tell
) -> None:
    """Drain the node if another one can take its VMs, and restart it.

    Args:
        paths: The node's.
        reason: Why, for people who look at the node in Nomad.
        drain_timeout_s: How long the drain may take; None: no drain.
        tell: Receives a line for each thing that is done.

    Raises:
        NodeError: systemd does not restart the node.
    """
    if drain_timeout_s is not None:
        try:
            await drain(paths, reason=reason, tell=tell, timeout_s=drain_timeout_s)
        except NodeError as exc:
            # A node without Nomad, or a cluster without a leader: nothing to move.
            tell(f"not drained: {exc}; the shutdown ends the VMs cleanly")
    tell("restarting")
    await run(["systemctl", "reboot"], timeout_s=_TIMEOUT_S)
