"""MAC addresses of guests: pure.

Owns deriving them. Does not own putting them on a device.
"""

import hashlib


def stable_mac(alloc_id: str, task_name: str, nic_index: int) -> str:
    """Return the MAC of one NIC of a task, the same for the life of its allocation.

    A restart in place and a recovery give the same address, so that the guest keeps its DHCP lease.
    The second-lowest bit of the first byte marks it locally administered, the lowest unicast
    (IEEE 802-2014, 8.2). The remaining 46 bits are a hash; a collision on one node is as likely as
    drawing twice from 7e13.
    """
    digest = hashlib.sha256(f"{alloc_id}/{task_name}/{nic_index}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in ((digest[0] & 0xFC) | 0x02, *digest[1:6]))
