"""MAC addresses of guests: pure.

Owns deriving them, reading a job's own, and finding two that are one. Does not own putting them on
a device.
"""

import hashlib
import re
from collections.abc import Mapping

from qemu_node.errors import JobError

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_ZERO = "00:00:00:00:00:00"


def stable_mac(alloc_id: str, task_name: str, nic_index: int) -> str:
    """Return the MAC of one NIC of a task, the same for the life of its allocation.

    A restart in place and a recovery give the same address, so that the guest keeps its DHCP lease.
    The second-lowest bit of the first byte marks it locally administered, the lowest unicast
    (IEEE 802-2014, 8.2). The remaining 46 bits are a hash; a collision on one node is as likely as
    drawing twice from 7e13.
    """
    digest = hashlib.sha256(f"{alloc_id}/{task_name}/{nic_index}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in ((digest[0] & 0xFC) | 0x02, *digest[1:6]))


def parse_mac(text: str) -> str:
    """Return the MAC in `text`, lower case with colons; dashes between the bytes are taken too.

    Any unicast address: a job that brings one has it from somewhere, a licence or a DHCP server.

    Raises:
        JobError: it is no MAC, or a group's, or all zero.
    """
    mac = text.strip().lower().replace("-", ":")
    if _MAC.fullmatch(mac) is None:
        raise JobError(f"{text!r} is not a MAC address", hint='write it as "52:54:00:12:34:56"')
    if int(mac[:2], 16) & 0x01:
        raise JobError(f"MAC address {mac} is a group's", hint="its first byte must be even")
    if mac == _ZERO:
        raise JobError(f"MAC address {mac} is nobody's")
    return mac


def check_unused(mac: str, known: Mapping[str, str]) -> None:
    """Raise unless `mac` is free on this node.

    Args:
        mac: The address, as `parse_mac` returns it.
        known: Addresses in use, and for each who has it, in words: `"VM web-0f…"`, `"br0"`.

    Raises:
        JobError: somebody has it; two would take each other's frames.
    """
    if mac in known:
        raise JobError(
            f"MAC address {mac} is in use on this node by {known[mac]}",
            hint="choose another one, or none: the node derives an address for each NIC",
        )
