"""What one NIC is to be, and what its TAP is called: values, without I/O.

Owns the values: what a job wishes, and what the node's policy makes of it. Does not own the
decision (`policy`) nor how a port is set up (`manager`).
"""

import hashlib
import re
from dataclasses import dataclass

from qemu_node.vlans import is_vid

MAX_QUEUES = 16
"""Queue pairs of one NIC. Each takes one or two descriptors and, with vhost, a kernel thread."""
MTU_MIN, MTU_MAX = 1280, 9216
"""IPv6 needs 1280 (RFC 8200, 5). Most switches allow up to 9216."""

RATE_MAX_MBIT = 32_000
"""A higher rate, in bytes a second, does not fit the 32 bits of the kernel's policer."""

TAP_PREFIX = "qn"
"""Fixed, because a systemd-networkd unit and the ruleset match `qn*`."""

TAP_NAME = re.compile(r"qn[0-9a-f]{13}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NicWish:
    """What a job asks of one NIC. By default it gets the node's default network."""

    is_user: bool = False
    """The job asks for user mode."""
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    mac: str | None = None
    isolated: bool = False
    queues: int = 1
    mtu: int | None = None
    rate_mbit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NicIdentity:
    """Which NIC of which VM it is, and its MAC address unless the job chooses one."""

    vm_id: str
    index: int
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPort:
    """A NIC behind QEMU's user-mode network stack. It needs no device of the host."""

    vm_id: str
    index: int
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSpec:
    """A NIC that is a port of the node's bridge: all that `PortManager` needs to set it up."""

    vm_id: str
    index: int
    ifname: str
    mac: str
    vlan: int | None
    """The VLAN of its untagged frames; None for a trunk."""
    trunk: tuple[int, ...] = ()
    """The VLANs of its tagged frames, ascending."""
    isolated: bool = False
    """It cannot reach another isolated port, in any VLAN."""
    strict: bool = False
    """The kernel completes checksums and segmentation of what it sends before the filter
    (`port.checksums`)."""
    queues: int = 1
    mtu: int | None = None
    """The MTU that the guest is told, in bytes; None: it is told none. The TAP has the
    bridge's."""
    rate_mbit: int | None = None
    """Limit in megabits a second in each direction; None: no limit."""
    addresses: tuple[str, ...] = ()
    """Networks in which its IP source addresses must be; empty: any address."""

    def __post_init__(self) -> None:
        # The kernel sets several VLANs one by one, and keeps the first ones if a later one is
        # wrong.
        if (self.vlan is None) != bool(self.trunk):
            raise ValueError("a port has either a VLAN or a trunk")
        if not all(is_vid(vid) for vid in self.vids):
            raise ValueError(f"no VLANs of a VM: {sorted(self.vids)}")

    @property
    def vids(self) -> frozenset[int]:
        """All its VLANs, tagged and untagged."""
        return frozenset(self.trunk if self.vlan is None else (self.vlan,))


def tap_name(vm_id: str, nic_index: int) -> str:
    """Return the name of one NIC's TAP: the same for every start of the same VM.

    It has 15 bytes; the kernel cuts a longer one (IFNAMSIZ without its NUL, linux/if.h).

    It has eleven digits of a hash of `vm_id` and two for the NIC. Among 3e7 nodes with a thousand
    VMs each, one has two VMs with the same hash. The start of the second is then refused, because a
    TAP is always made new.

    Raises:
        ValueError: `nic_index` is not 0 to 255: a bug in the caller.
    """
    if not 0 <= nic_index <= 255:
        raise ValueError(f"no NIC index: {nic_index}")
    digest = hashlib.sha256(vm_id.encode()).hexdigest()
    return f"{TAP_PREFIX}{digest[:11]}{nic_index:02x}"
