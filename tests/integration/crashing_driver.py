"""A program that is a driver for each of several tasks, each killed by SIGKILL at a named point.

    python crashing_driver.py [--vlan VLAN] ROOT IMAGE POINT TASK…

A point is `start NAME` or `stop NAME`, the step that is announced in the log, or `started`. Exit
code 0: all drivers were killed there. What they leave behind is the caller's to look at.

With --vlan the tasks are in a VLAN of `NETWORK`, which one driver at a time can manage: one task.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

from integration.vmnode import VMNode

from qemu_node.config.network import NetworkConfig, NetworkPolicy
from qemu_node.config.node import Paths
from qemu_node.host.process import pidfd
from qemu_node.net.manager import PortManager
from qemu_node.vm.life.stopladder import StopAction
from qemu_node.vm.vmnetwork import Network

STOP_TIMEOUT_S = 2.0
STARTED = "started"
NETWORK = NetworkConfig(
    bridge="br0", uplink="up0", policy=(NetworkPolicy(namespaces=("*",), vlans=("2-4094",)),)
)


def alloc_id_of(task: str) -> str:
    """Return the allocation of a task: each has its own."""
    return f"11111111-2222-3333-4444-{task:0>12}"


def bridged_node(root: Path, image: Path) -> VMNode:
    """Return a node whose VMs may be ports of the bridge of `NETWORK`."""
    paths = Paths(run=str(root / "r"), data=str(root / "d"))
    return VMNode(
        root, image, network=Network(paths, NETWORK, PortManager(NETWORK, identity="test"))
    )


class _Assassin(logging.Handler):
    """Kills this process at a step."""

    def __init__(self, point: str) -> None:
        super().__init__()
        self._point = point

    def emit(self, record: logging.LogRecord) -> None:
        kind, _, what = record.getMessage().partition(" ")
        if what == "step" and f"{kind} {record.__dict__['step']}" == self._point:
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _drive(root: Path, image: Path, point: str, task: str, vlan: int | None) -> None:
    node = VMNode(root, image) if vlan is None else bridged_node(root, image)
    alloc_id = alloc_id_of(task)
    nics = None if vlan is None else (node.port(vlan, task=task, alloc_id=alloc_id),)
    vm = await node.start(node.request(task=task, alloc_id=alloc_id, nics=nics))
    if point == STARTED:
        _die()
    if point == f"stop {StopAction.KILL}":
        # A QEMU that works has left before it has to be killed.
        pidfd.send_signal(vm.process, signal.SIGSTOP)
    await vm.stop(STOP_TIMEOUT_S)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vlan", type=int)
    parser.add_argument("root", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("point")
    parser.add_argument("tasks", nargs="+")
    args = parser.parse_args()
    log = logging.getLogger("qemu_node")
    log.setLevel(logging.DEBUG)
    log.addHandler(_Assassin(args.point))
    children = []
    for task in args.tasks:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(_drive(args.root, args.image, args.point, task, args.vlan))
            except Exception:
                traceback.print_exc()
            os._exit(1)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return 0 if statuses == [-signal.SIGKILL] * len(args.tasks) else 1


if __name__ == "__main__":
    sys.exit(main())
