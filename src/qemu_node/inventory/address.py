"""Where people reach a VM: pure.

Does not own which of the addresses that a guest reports are believed (`vm.life.guestnet`).
"""

from collections.abc import Sequence

from qemu_node.vm.record.record import VMRecord


def reachable_address(record: VMRecord, guest_addresses: Sequence[str] = ()) -> str:
    """Return the VM's forwarded ports, else the first of its guest's own addresses, else ""."""
    forwards = [
        f"{forward.host_ip}:{forward.host_port} → {forward.guest_port}"
        for nic in record.nics
        for forward in nic.forwards
    ]
    return ", ".join(forwards) or next(iter(guest_addresses), "")
