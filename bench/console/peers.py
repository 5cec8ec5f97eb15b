"""`python -m bench.console.peers NODE_TOML COUNT`: VMs that are published and have no QEMU.

This process stands for all of them: it holds their locks, answers at their monitors and as their
guests' agents, writes usage.json as often as a driver does, and is their VNC server. Prints a line
when all are there: the vm_ids. Ends with its stdin and removes what it has made.

To be run with the tests' directory in PYTHONPATH: the peers are the tests'.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from fakes.fake_qga import FakeQga
from fakes.fake_qmp import FakeQmp
from fakes.published import make_record, publish

from bench.console import screens
from qemu_node.config import node
from qemu_node.host.files.atomic import write_atomic
from qemu_node.host.files.tree import remove_tree
from qemu_node.units import GIB, MIB
from qemu_node.vm.life.usage import Usage
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory
from qemu_node.vm.record.record import VMRecord

_JOB_VMS = 25
_MEASURED_S = 20.0
"""How often a driver writes each usage.json."""
_MAC = "52:54:00:12:34:56"

_MONITOR = {
    "query-memory-size-summary": {"base-memory": 2 * GIB, "plugged-memory": 0},
    "qom-set": {},
    "qom-get": {
        "stats": {"stat-total-memory": 2 * GIB, "stat-available-memory": GIB},
        "last-update": 1,
    },
}


def main(node_toml: Path, count: int) -> None:
    """Be `count` VMs until stdin ends."""
    asyncio.run(_serve(node.load(node_toml).paths, count))


async def _serve(paths: node.Paths, count: int) -> None:
    found = [_publish(paths, number) for number in range(count)]
    async with AsyncExitStack() as stack:
        for number, (record, directory) in enumerate(found):
            stack.push_async_callback(asyncio.to_thread, remove_tree, directory.data)
            stack.push_async_callback(asyncio.to_thread, remove_tree, directory.run)
            await stack.enter_async_context(
                FakeQmp(Path(record.sockets.console or ""), replies=_MONITOR)
            )
            await stack.enter_async_context(
                FakeQga(Path(record.sockets.qga), replies=_agent(number))
            )
            screens.serve(Path(record.sockets.vnc))
        print(" ".join(record.vm_id for record, _ in found), flush=True)
        async with asyncio.TaskGroup() as group:
            measuring = group.create_task(_measure([directory for _, directory in found]))
            await asyncio.to_thread(sys.stdin.read)
            measuring.cancel()


def _publish(paths: node.Paths, number: int) -> tuple[VMRecord, VMDirectory]:
    job, index = f"job-{number // _JOB_VMS:03}", number % _JOB_VMS
    record = make_record(
        paths,
        f"{job}-{number:012x}",
        job_id=job,
        job_name=job,
        index=index,
        memory_bytes=2 * GIB,
        memory_min_bytes=GIB,
        memory_max_bytes=4 * GIB,
    )
    directory = publish(paths, record)
    assert DirectoryLock.try_acquire(directory.data) is not None
    return record, directory


def _agent(number: int) -> dict[str, object]:
    address = {
        "ip-address": f"10.20.{number // 250}.{number % 250 + 1}",
        "ip-address-type": "ipv4",
        "prefix": 16,
    }
    interface = {"name": "eth0", "hardware-address": _MAC, "ip-addresses": [address]}
    return {
        "guest-get-host-name": {"host-name": f"guest-{number}"},
        "guest-network-get-interfaces": [interface],
    }


async def _measure(directories: Sequence[VMDirectory]) -> None:
    """Write what a driver measures, one VM after the other."""
    chance = random.Random(0)
    while True:
        for directory in directories:
            usage = Usage(
                measured_at=time.time(),
                cpu_user_s=1.0,
                cpu_system_s=1.0,
                pss_bytes=chance.randrange(500, 510) * MIB,
            )
            write_atomic(directory.usage_json, msgspec.json.encode(usage))
            await asyncio.sleep(_MEASURED_S / len(directories))


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), int(sys.argv[2]))
