"""Goal: the plugin is ready for the handshake within 0.5 s of its start.

An agent starts it three times before it uses it and once after each end, and waits each time. The
time is that from the spawn to the first answer over gRPC.
"""

import os
import time

from bench.rig.node import DRIVER_ARGV
from bench.setting import Setting
from bench.table import Figure, Goal
from qemu_node.nomad.agent.pluginclient import PluginClient

NAME = "ready"

_STARTS = 10
_READY_MAX_S = 0.5


async def measure(_setting: Setting) -> list[Figure]:
    """Return how long the starts took."""
    samples = []
    for _ in range(_STARTS):
        begin = time.perf_counter()
        client = await PluginClient.launch(DRIVER_ARGV, env=os.environ)
        samples.append(time.perf_counter() - begin)
        await client.shutdown()
    return [
        Figure(
            bench=NAME,
            what="spawn to handshake and first answer",
            unit="s",
            samples=tuple(samples),
            goal=Goal(at_most=_READY_MAX_S),
        )
    ]
