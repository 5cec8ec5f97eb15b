"""What the kernel says about devices, as values.

Owns these values. Does not own reading them (`rtnl`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeFacts:
    """What a bridge is like, as far as VLANs go."""

    ifindex: int
    is_bridge: bool
    vlan_filtering: bool = False
    mcast_snooping: bool = False
    default_pvid: int = 0
    mtu: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a device is."""

    ifindex: int
    kind: str
    """As `ip link add type` names it; empty: a NIC, or another device that has none."""
    is_up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFacts:
    """A network device: what it is called and what it is a port of."""

    ifname: str
    ifindex: int
    master: int
    """The ifindex of its bridge; 0: none."""
    is_up: bool
    active_port: int = 0
    """Of a bond in active-backup the ifindex of the NIC in use; 0: none, or no such bond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortVlans:
    """The VLANs of one bridge port."""

    vids: frozenset[int]
    untagged: frozenset[int]
    """Those of `vids` whose frames have no tag, one way or both."""
