"""What is asked of rtnetlink to change something, packed by hand. Pure.

Owns the layout of these messages, and attributes both ways. Does not own sending them (`rtnl`),
what the kernel answers (`answers`), traffic control (`traffic`) or the order of the steps
(`port.bridgeport`).

pyroute2 could pack and send them; its asyncio core takes six times as long for each as the kernel
does, and here a start waits. Numbers are those of
include/uapi/linux/{netlink,rtnetlink,if_link,if_bridge,neighbour}.h.
"""

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

RTM_NEWLINK, RTM_DELLINK, RTM_SETLINK, RTM_NEWNEIGH = 16, 17, 19, 28
AF_BRIDGE = 7
IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_AF_SPEC = 3, 4, 10, 18, 26
_IFLA_TXQLEN, _IFLA_NUM_TX_QUEUES = 13, 31
IFLA_INFO_KIND, IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFF_UP = 1
VLAN_PVID, VLAN_UNTAGGED = 0x2, 0x4

NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_NLA_TYPE_MASK = 0x3FFF
_ATTRIBUTE = struct.Struct("=HH")
_NLA_F_NESTED = 0x8000
_IFLA_BRIDGE_VLAN_INFO = 2
_VLAN_RANGE_BEGIN, _VLAN_RANGE_END = 0x8, 0x10
_NDA_LLADDR, _NUD_NOARP, _NTF_MASTER, _NTF_STICKY = 2, 0x40, 0x04, 0x40

# Options of a guest's port. `guard` closes the port at a BPDU, where the bridge speaks STP at all.
# With a forwarding entry of its own for the guest's address a port need neither learn nor be
# flooded with frames for unknown ones. Without a router on it, it gets the multicast that it asked
# for, whatever queries the guest sends. Frames for 01:80:c2:00:00:0x, all that can be let through
# (0xfffd, br_private.h BR_GROUPFWD_RESTRICTED), are forwarded and so seen, and dropped, by the
# ruleset, instead of being handed to the node's own stack.
_PORT_OPTIONS: dict[int, bytes] = {
    5: b"\1",  # IFLA_BRPORT_GUARD
    8: b"\0",  # IFLA_BRPORT_LEARNING
    9: b"\0",  # IFLA_BRPORT_UNICAST_FLOOD
    25: b"\0",  # IFLA_BRPORT_MULTICAST_ROUTER
    27: b"\1",  # IFLA_BRPORT_MCAST_FLOOD
    30: b"\1",  # IFLA_BRPORT_BCAST_FLOOD
    31: struct.pack("=H", 0xFFFD),  # IFLA_BRPORT_GROUP_FWD_MASK
}
_BRPORT_ISOLATED = 33


class Request(NamedTuple):
    """One message to the kernel, without its header."""

    kind: int
    """`RTM_…`."""
    body: bytes
    what: str
    """What it does, for the error: "cannot …"."""
    flags: int = 0
    """`NLM_F_…`, beside those of every request."""


def set_master(ifindex: int, master: int, mtu: int) -> Request:
    """Make the device a port of the bridge `master`, with its MTU, so that it keeps its own."""
    body = link_header(ifindex)
    body += attribute(IFLA_MTU, struct.pack("=I", mtu))
    body += attribute(IFLA_MASTER, struct.pack("=I", master))
    return Request(RTM_NEWLINK, body, "join the bridge")


def add_vlans(
    ifindex: int, ranges: Iterable[tuple[int, int]], *, is_untagged: bool = False
) -> Request:
    """Let a port carry VLANs; those it carries already it then carries as told."""
    return _vlans(RTM_SETLINK, "add", ifindex, vlan_attributes(ranges, is_untagged=is_untagged))


def delete_vlans(ifindex: int, ranges: Iterable[tuple[int, int]]) -> Request:
    """Let a port carry VLANs no longer; those it does not carry are no error."""
    return _vlans(RTM_DELLINK, "remove", ifindex, vlan_attributes(ranges, is_untagged=False))


def _vlans(kind: int, verb: str, ifindex: int, infos: Sequence[bytes]) -> Request:
    body = link_header(ifindex, family=AF_BRIDGE) + nested(IFLA_AF_SPEC, *infos)
    return Request(kind, body, f"{verb} VLANs")


def vlan_attributes(ranges: Iterable[tuple[int, int]], *, is_untagged: bool) -> list[bytes]:
    """Return the attributes that name VLANs to a bridge port.

    Args:
        ranges: First and last of each; they are not checked.
        is_untagged: The VLAN is that of untagged frames, both ways; it is one alone then.
    """
    flags = VLAN_PVID | VLAN_UNTAGGED if is_untagged else 0
    found = []
    for first, last in ranges:
        ends = (
            [(first, 0)] if first == last else [(first, _VLAN_RANGE_BEGIN), (last, _VLAN_RANGE_END)]
        )
        found += [
            attribute(_IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags | end, vid))
            for vid, end in ends
        ]
    return found


def add_address(ifindex: int, mac: str) -> Request:
    """Tie an address to a port, in all its VLANs: no frame from elsewhere moves it."""
    body = struct.pack("=BxxxiHBB", AF_BRIDGE, ifindex, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY, 0)
    body += attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
    return Request(RTM_NEWNEIGH, body, "tie the MAC address", NLM_F_CREATE | NLM_F_REPLACE)


def set_up(ifindex: int, *, is_isolated: bool) -> Request:
    """Give a port the options of a guest's, then set it up: in one request, in this order."""
    body = link_header(ifindex, flags=IFF_UP) + _port_options(is_isolated=is_isolated)
    return Request(RTM_NEWLINK, body, "set the port's options")


@functools.cache
def _port_options(*, is_isolated: bool) -> bytes:
    options = {**_PORT_OPTIONS, _BRPORT_ISOLATED: bytes([is_isolated])}
    return nested(
        IFLA_LINKINFO,
        attribute(_IFLA_INFO_SLAVE_KIND, b"bridge\0"),
        nested(_IFLA_INFO_SLAVE_DATA, *(attribute(*option) for option in options.items())),
    )


def make_device(ifname: str, kind: str, *, tx_queues: int, tx_queue_frames: int) -> Request:
    """Make a device of a kind, which must not be there."""
    body = link_header(0) + attribute(IFLA_IFNAME, ifname.encode() + b"\0")
    body += attribute(_IFLA_TXQLEN, struct.pack("=I", tx_queue_frames))
    body += attribute(_IFLA_NUM_TX_QUEUES, struct.pack("=I", tx_queues))
    body += nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode() + b"\0"))
    return Request(RTM_NEWLINK, body, f"make a device of kind {kind}", NLM_F_CREATE | NLM_F_EXCL)


def set_up_device(ifindex: int) -> Request:
    """Set a device up."""
    return Request(RTM_NEWLINK, link_header(ifindex, flags=IFF_UP), "set the device up")


def set_down(ifindex: int) -> Request:
    """Set a device down: it passes nothing."""
    body = struct.pack("=BxHiII", 0, 0, ifindex, 0, IFF_UP)
    return Request(RTM_NEWLINK, body, "set the device down")


def delete_link(ifindex: int) -> Request:
    """Remove a device, whoever holds it open."""
    return Request(RTM_DELLINK, link_header(ifindex), "remove the device")


def link_header(ifindex: int, *, family: int = 0, flags: int = 0) -> bytes:
    """Return a `struct ifinfomsg` that changes the given flags alone."""
    return struct.pack("=BxHiII", family, 0, ifindex, flags, flags)


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute: length, type, value, padding to four bytes (man 7 rtnetlink)."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, *values: bytes) -> bytes:
    """Return an attribute that holds others."""
    return attribute(kind | _NLA_F_NESTED, b"".join(values))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of the attributes in `data`; what is cut off at the end is left out."""
    at, end = 0, len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not 4 <= length <= end - at:
            return
        yield kind & _NLA_TYPE_MASK, data[at + 4 : at + length]
        at += length + (-length % 4)


def pick(data: bytes, *kinds: int) -> dict[int, bytes]:
    """Return those of `kinds` that are in `data`, each once; looks no further than it must.

    The same walk as that of `attributes`, which takes three times as long: the answer about a
    bridge has eighty, and a start waits.
    """
    found: dict[int, bytes] = {}
    at, end = 0, len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not 4 <= length <= end - at:
            break
        kind &= _NLA_TYPE_MASK
        if kind in kinds:
            found[kind] = data[at + 4 : at + length]
            if len(found) == len(kinds):
                break
        at += length + (-length % 4)
    return found
