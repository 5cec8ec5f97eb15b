"""Names of TAP devices: pure.

Owns the name that ties a TAP to its VM. Does not own the device (`tap`).
"""

import hashlib
import re

TAP_PREFIX = "qn"
"""Fixed: a systemd-networkd unit and the ruleset match `qn*`."""

TAP_NAME = re.compile(r"qn[0-9a-f]{13}")

IFNAME_MAX_BYTES = 15
"""IFNAMSIZ, 16, without its NUL (include/uapi/linux/if.h); a longer one is cut silently."""


def tap_name(vm_id: str, nic_index: int) -> str:
    """Return the name of one NIC's TAP, 15 bytes: the same for every start of the same VM.

    Eleven digits of a hash of `vm_id`, the same for all its NICs, and two for the NIC. Two of a
    thousand VMs on one node share them once in 3e7 nodes; the second start is then refused,
    because a TAP is only ever made new.

    Raises:
        ValueError: `nic_index` is not 0 to 255: a fault of the caller.
    """
    if not 0 <= nic_index <= 255:
        raise ValueError(f"no NIC index: {nic_index}")
    digest = hashlib.sha256(vm_id.encode()).hexdigest()
    return f"{TAP_PREFIX}{digest[:11]}{nic_index:02x}"
