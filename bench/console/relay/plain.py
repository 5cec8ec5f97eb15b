"""`python -m bench.console.relay.plain NODE_TOML`: the console as `qemu-node run` serves it.

Without TLS, on loopback: to be compared with relays that have none. Prints a link that logs in
once; ends with its stdin.
"""

import asyncio
import sys
from pathlib import Path

from qemu_node.config import node
from qemu_node.host.concurrency.looptime import timed_loop
from qemu_node.web.service.serving import serving_by_link


async def _serve(config: node.NodeConfig) -> None:
    async with serving_by_link(config) as make_link:
        print(make_link(), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=timed_loop) as runner:
        runner.run(_serve(node.load(Path(sys.argv[1]))))
