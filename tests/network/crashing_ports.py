"""A driver that is killed while it attaches and detaches ports, again and again: a program.

    crashing_ports.py

Runs in the lab's network. A child process attaches a port, detaches it, and is killed when it is
about to change the kernel's state for the n-th time, for each n until it gets to its end. After
each death another one takes over and reconciles without any VM that lives. Prints a JSON line for
each n: where the child died, and what was left. Children are forked, as starting Python costs
seconds in the test VM.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

from network.facts import MANAGEMENT, set_elements, taps, vlans_of, wait_until
from network.lab import CONFIG, port_spec

from qemu_node.net import manager as ports
from qemu_node.net.manager import PortManager

_WATCHED = str(Path(ports.__file__).parent)
_ACTS = ("do", "run", "_open_queue", "_silence", "_open_vhost", "close", "release")
"""The functions of `net` that change something, or are about to."""
PORT = port_spec("crash", 1, vlan=None, trunk=(30, 31))


async def live_and_end() -> None:
    """Attach a port and detach it, as a start and a stop do."""
    manager = PortManager(CONFIG, identity="test")
    await manager.begin()
    attached = await manager.attach(PORT)
    await attached.close()
    await manager.detach(PORT)
    await manager.aclose()


async def take_over() -> None:
    """Do what a driver does at its start on a node without VMs."""
    manager = PortManager(CONFIG, identity="test")
    await manager.begin()
    await manager.reconcile([])
    await manager.aclose()


class Executioner:
    """Kills this process at the `last` of its acts, whichever thread is about to do it."""

    def __init__(self, last: int, report: int) -> None:
        self._left = last
        self._report = report

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if (
            event != "call"
            or code.co_name not in _ACTS
            or not code.co_filename.startswith(_WATCHED)
        ):
            return
        self._left -= 1
        if self._left == 0:
            os.write(self._report, f"{Path(code.co_filename).stem}.{code.co_name}".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Coroutine[Any, Any, None], executioner: Executioner | None = None) -> int:
    """Run `work` in a forked process and return its wait status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if executioner is not None:
                sys.setprofile(executioner)
                threading.setprofile(executioner)
            asyncio.run(work)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    """Kill at each step; end when a child got to its end."""
    step = 0
    while True:
        step += 1
        reading, writing = os.pipe()
        status = in_child(live_and_end(), Executioner(step, writing))
        os.close(writing)
        where = os.read(reading, 200).decode()
        os.close(reading)
        if not where:
            assert status == 0, f"the child failed by itself at step {step}"
            return
        wait_until(lambda: taps() == [], "the TAP to go with its process")
        assert in_child(take_over()) == 0
        vlans = sorted(vlans_of("bond0") - {MANAGEMENT})
        left = [f"VLAN {vid}" for vid in vlans] + set_elements()
        print(json.dumps({"step": step, "where": where, "left": left}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
