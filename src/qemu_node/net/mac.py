"""MAC addresses of guests: pure.

Owns deriving them, parsing a job's own, and refusing duplicates. Does not own setting them on a
device.
"""

import hashlib
import re
from collections.abc import Mapping

from qemu_node.errors import JobError

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_ZERO = "00:00:00:00:00:00"


def stable_mac(alloc_id: str, task_name: str, nic_index: int) -> str:
    """Return the MAC of one NIC of a task, the same for the life of its allocation.

    It is the same after a restart in place and after a recovery, so that the guest keeps its DHCP
    lease. Of the first byte, the second-lowest bit (1) marks it as locally administered, the lowest
    (0) as unicast (IEEE 802-2014, 8.2). The other 46 bits are a hash, so there are 7e13 addresses.
    """
    digest = hashlib.sha256(f"{alloc_id}/{task_name}/{nic_index}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in ((digest[0] & 0xFC) | 0x02, *digest[1:6]))


def parse_mac(text: str) -> str:
    """Return the MAC in `text`, lower case with colons. Dashes between the bytes are allowed.

    Any unicast address is allowed: a job needs a certain one for a licence or a DHCP server, say.

    Raises:
        JobError: it is not a MAC address, or a multicast one, or all zero.
    """
    mac = text.strip().lower().replace("-", ":")
    if _MAC.fullmatch(mac) is None:
        raise JobError(f"{text!r} is not a MAC address", hint='write it as "52:54:00:12:34:56"')
    if int(mac[:2], 16) & 0x01:
        raise JobError(
            f"MAC address {mac} is a multicast address", hint="its first byte must be even"
        )
    if mac == _ZERO:
        raise JobError(f"MAC address {mac} is not a NIC's")
    return mac


def check_unused(mac: str, known: Mapping[str, str]) -> None:
    """Raise unless `mac` is free on this node.

    Args:
        mac: The address, as `parse_mac` returns it.
        known: The addresses in use, each with its owner in words: `"VM web-0f…"`, `"br0"`.

    Raises:
        JobError: it is in use; two NICs with it would get each other's frames.
    """
    if mac in known:
        raise JobError(
            f"MAC address {mac} is in use on this node by {known[mac]}",
            hint="choose another one, or none: the node derives an address for each NIC",
        )
