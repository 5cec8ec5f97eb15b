"""What the kernel answers about network devices, as values. Pure.

Owns these values and the layout of the answers. Does not own asking (`rtnl`). Numbers are those of
include/uapi/linux/{rtnetlink,if_link,if_bridge}.h.
"""

import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qemu_node.net.netlink.messages import (
    IFF_UP,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    VLAN_PVID,
    VLAN_UNTAGGED,
    attributes,
    pick,
)

_IFLA_BR_VLAN_FILTERING, _IFLA_BR_MCAST_SNOOPING, _IFLA_BR_VLAN_DEFAULT_PVID = 7, 23, 39
_IFLA_BOND_ACTIVE = 2
_BRIDGE_VLANDB_ENTRY, _VLANDB_ENTRY_INFO, _VLANDB_ENTRY_RANGE = 1, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeFacts:
    """The settings of a bridge that matter for VLANs."""

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
    """As in `ip link add type`; empty for a NIC and other devices without a kind."""
    is_up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFacts:
    """A network device: its name, its state, and the bridge that it is a port of."""

    ifname: str
    ifindex: int
    master: int
    """The ifindex of its bridge; 0: none."""
    is_up: bool
    active_port: int = 0
    """For a bond in mode active-backup the ifindex of the NIC in use; 0: none, or no such bond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortVlans:
    """The VLANs of one bridge port."""

    vids: frozenset[int]
    untagged: frozenset[int]
    """The VLANs in `vids` whose frames have no tag, in one direction or both."""


def link_facts(link: bytes) -> LinkFacts:
    """Return the facts in the kernel's description of a device."""
    ifindex, flags = struct.unpack_from("=iI", link, 4)
    found = dict(attributes(link[16:]))
    return LinkFacts(
        ifname=found[IFLA_IFNAME].rstrip(b"\0").decode(errors="replace"),
        ifindex=ifindex,
        master=struct.unpack("=I", found.get(IFLA_MASTER, b"\0" * 4))[0],
        is_up=bool(flags & IFF_UP),
        active_port=active_port(found),
    )


def active_port(link: Mapping[int, bytes]) -> int:
    """Return the ifindex of the NIC that a bond in active-backup uses; 0: none, or no such bond.

    Args:
        link: The attributes of the kernel's description of a device.
    """
    info = pick(link.get(IFLA_LINKINFO, b""), IFLA_INFO_KIND, IFLA_INFO_DATA)
    if info.get(IFLA_INFO_KIND, b"").rstrip(b"\0") != b"bond":
        return 0
    data = pick(info.get(IFLA_INFO_DATA, b""), _IFLA_BOND_ACTIVE)
    return int.from_bytes(data.get(_IFLA_BOND_ACTIVE, b""), sys.byteorder)


def device_facts(link: bytes) -> DeviceFacts:
    """Return the kind and state in the kernel's description of a device."""
    ifindex, flags = struct.unpack_from("=iI", link, 4)
    info = pick(pick(link[16:], IFLA_LINKINFO).get(IFLA_LINKINFO, b""), IFLA_INFO_KIND)
    kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
    return DeviceFacts(ifindex=ifindex, kind=kind, is_up=bool(flags & IFF_UP))


def bridge_facts(link: bytes) -> BridgeFacts:
    """Return the bridge settings in the kernel's description of a device."""
    (ifindex,) = struct.unpack_from("=i", link, 4)
    found = pick(link[16:], IFLA_MTU, IFLA_LINKINFO)
    info = pick(found.get(IFLA_LINKINFO, b""), IFLA_INFO_KIND, IFLA_INFO_DATA)
    if info.get(IFLA_INFO_KIND, b"").rstrip(b"\0") != b"bridge":
        return BridgeFacts(ifindex=ifindex, is_bridge=False)
    data = pick(
        info.get(IFLA_INFO_DATA, b""),
        _IFLA_BR_VLAN_FILTERING,
        _IFLA_BR_MCAST_SNOOPING,
        _IFLA_BR_VLAN_DEFAULT_PVID,
    )
    (mtu,) = struct.unpack("=I", found[IFLA_MTU])
    # A kernel without VLAN filtering leaves out both.
    (default_pvid,) = struct.unpack("=H", data.get(_IFLA_BR_VLAN_DEFAULT_PVID, b"\0\0"))
    return BridgeFacts(
        ifindex=ifindex,
        is_bridge=True,
        mcast_snooping=data.get(_IFLA_BR_MCAST_SNOOPING, b"\0") != b"\0",
        vlan_filtering=data.get(_IFLA_BR_VLAN_FILTERING, b"\0") != b"\0",
        default_pvid=default_pvid,
        mtu=mtu,
    )


def port_vlans(listing: Iterable[bytes]) -> dict[int, PortVlans]:
    """Return the VLANs of the devices in a listing of VLANs, by ifindex."""
    found: dict[int, tuple[set[int], set[int]]] = {}
    for message in listing:
        (ifindex,) = struct.unpack_from("=I", message, 4)
        vids, untagged = found.setdefault(ifindex, (set(), set()))
        for kind, entry in attributes(message[8:]):
            if kind != _BRIDGE_VLANDB_ENTRY:
                continue
            values = dict(attributes(entry))
            flags, first = struct.unpack_from("=HH", values[_VLANDB_ENTRY_INFO])
            (last,) = struct.unpack("=H", values.get(_VLANDB_ENTRY_RANGE, struct.pack("=H", first)))
            vids.update(range(first, last + 1))
            if flags & (VLAN_PVID | VLAN_UNTAGGED):
                untagged.update(range(first, last + 1))
    return {
        ifindex: PortVlans(vids=frozenset(vids), untagged=frozenset(untagged))
        for ifindex, (vids, untagged) in found.items()
    }
