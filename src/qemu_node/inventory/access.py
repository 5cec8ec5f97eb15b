"""How a published VM is reached from outside: its QEMU, its guest's agent, its address.

Owns which of the VM's sockets that is, whether this user may use them, and what is said if its QEMU
is another user's. The driver has sockets and a connection of its own (`vm.life`). Does not own
which of the addresses that a guest reports are believed (`vm.life.guestnet`).
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from qemu_node.errors import AS_ROOT, HostError
from qemu_node.qga.agent import GuestAgent
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.record.record import NicRecord, VMRecord

_MONITOR_TIMEOUT_S = 3.0
"""For the greeting. QEMU serves one client of the monitor at a time."""


def agent_of(record: VMRecord) -> GuestAgent:
    """Return the guest agent of a VM."""
    return GuestAgent(Path(record.sockets.qga), Path(record.qga_lock))


async def connect_monitor(
    record: VMRecord, *, timeout_s: float = _MONITOR_TIMEOUT_S
) -> QmpConnection:
    """Return a QMP connection to a VM's QEMU, for `async with`.

    Raises:
        QmpError: another client holds the monitor, QEMU hangs, or this user may not connect.
    """
    return await QmpConnection.connect(_monitor_of(record), timeout_s=timeout_s)


def may_reach(record: VMRecord) -> bool:
    """Tell whether this user may use a VM's sockets; True if they are gone."""
    monitor = _monitor_of(record)
    return not monitor.exists() or os.access(monitor, os.R_OK | os.W_OK)


def reachable_address(record: VMRecord, guest_addresses: Sequence[str] = ()) -> str:
    """Return the VM's forwarded ports, else the first of its guest's own addresses, else ""."""
    return ", ".join(forwarded_ports(record.nics)) or next(iter(guest_addresses), "")


def forwarded_ports(nics: Iterable[NicRecord]) -> tuple[str, ...]:
    """Return the ports of the node that lead into a guest, as people read them."""
    return tuple(
        f"{forward.host_ip}:{forward.host_port} → {forward.guest_port}"
        for nic in nics
        for forward in nic.forwards
    )


def another_users(pid: int) -> HostError:
    """Return the error of a user who may not signal the QEMU process `pid`."""
    return HostError(f"QEMU process {pid} is another user's", hint=AS_ROOT)


def _monitor_of(record: VMRecord) -> Path:
    return Path(record.sockets.monitor)
