"""What one NIC is to be, and what its TAP is called: values, without I/O.

Owns the vocabulary: what a job wishes, and what the node's policy made of it. Does not own the
decision (`policy`) nor how a port is set up (`manager`).
"""

import hashlib
import re
from dataclasses import dataclass

from qemu_node.vlans import is_vid

MAX_QUEUES = 16
"""Queue pairs of one NIC. Each costs a descriptor or two and, with vhost, a kernel thread."""
MTU_MIN, MTU_MAX = 1280, 9216
"""IPv6 needs 1280 (RFC 8200, 5); 9216 is what switches call jumbo."""

RATE_MAX_MBIT = 32_000
"""Beyond it the bytes a second of a policer do not fit the kernel's 32 bits."""

TAP_PREFIX = "qn"
"""Fixed: a systemd-networkd unit and the ruleset match `qn*`."""

TAP_NAME = re.compile(r"qn[0-9a-f]{13}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NicWish:
    """What a job asks of one NIC; nothing asked for means the node's default network."""

    is_user: bool = False
    """User mode is asked for."""
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    mac: str | None = None
    isolated: bool = False
    queues: int = 1
    mtu: int | None = None
    rate_mbit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NicIdentity:
    """Which NIC it is: of which VM, in which place, under which address unless the job has one."""

    vm_id: str
    index: int
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPort:
    """A NIC behind QEMU's user-mode network stack: no device of the host."""

    vm_id: str
    index: int
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSpec:
    """A NIC that is a port of the node's bridge, complete: what `PortManager` sets up."""

    vm_id: str
    index: int
    ifname: str
    mac: str
    vlan: int | None
    """The VLAN of its untagged frames; None for a trunk."""
    trunk: tuple[int, ...] = ()
    """The VLANs of its tagged frames, ascending."""
    isolated: bool = False
    """It reaches no other isolated port, whatever the VLAN."""
    strict: bool = False
    """What it sends is finished before the filter looks: checksums, segmentation (`checksums`)."""
    queues: int = 1
    mtu: int | None = None
    """What the guest is told, in bytes; None: nothing. The TAP has the bridge's."""
    rate_mbit: int | None = None
    """At most so many megabits a second each way; None: no limit."""
    addresses: tuple[str, ...] = ()
    """Networks that its IP source addresses must be in; none: any address."""

    def __post_init__(self) -> None:
        # The kernel takes several VLANs one by one, and keeps the first when a later one is wrong;
        # pyroute2 does nothing, and says so to nobody, for numbers out of range.
        if (self.vlan is None) != bool(self.trunk):
            raise ValueError("a port has either a VLAN or a trunk")
        if not all(is_vid(vid) for vid in self.vids):
            raise ValueError(f"no VLANs of a VM: {sorted(self.vids)}")

    @property
    def vids(self) -> frozenset[int]:
        """All its VLANs, tagged or not."""
        return frozenset(self.trunk if self.vlan is None else (self.vlan,))


def tap_name(vm_id: str, nic_index: int) -> str:
    """Return the name of one NIC's TAP: the same for every start of the same VM.

    It has 15 bytes; the kernel cuts a longer one (IFNAMSIZ without its NUL, linux/if.h).

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
