"""The requests to rtnetlink that change something, packed by hand. Pure.

Owns the layout of these messages, and packing and parsing attributes. Does not own sending them
(`rtnl`), what the kernel answers (`answers`), traffic control (`traffic`) or the order of the steps
(`port.bridgeport`).

pyroute2 could do this, but its asyncio core takes six times as long for a message as the kernel,
and a start has to wait. Numbers are those of
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

# Options of a guest's port. `guard` closes the port after a BPDU, if the bridge uses STP. The
# guest's address has a static forwarding entry, so the port neither learns addresses nor gets
# frames for unknown ones. It is never a multicast router, so queries from the guest change nothing.
# Frames for 01:80:c2:00:00:0x, as far as the kernel allows it (0xfffd, br_private.h
# BR_GROUPFWD_RESTRICTED), are forwarded, so that the ruleset sees and drops them; otherwise the
# node's own stack would get them.
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
    """What it does, for the error message "cannot …"."""
    flags: int = 0
    """Further `NLM_F_…` flags."""


def set_master(ifindex: int, master: int, mtu: int) -> Request:
    """Make the device a port of the bridge `master`, with the bridge's MTU, so that it stays."""
    body = link_header(ifindex)
    body += attribute(IFLA_MTU, struct.pack("=I", mtu))
    body += attribute(IFLA_MASTER, struct.pack("=I", master))
    return Request(RTM_NEWLINK, body, "join the bridge")


def add_vlans(
    ifindex: int, ranges: Iterable[tuple[int, int]], *, is_untagged: bool = False
) -> Request:
    """Let a port carry VLANs. VLANs that it carries already get the new tagging."""
    return _vlans(RTM_SETLINK, "add", ifindex, vlan_attributes(ranges, is_untagged=is_untagged))


def delete_vlans(ifindex: int, ranges: Iterable[tuple[int, int]]) -> Request:
    """Stop a port from carrying VLANs. It is no error if it does not carry them."""
    return _vlans(RTM_DELLINK, "remove", ifindex, vlan_attributes(ranges, is_untagged=False))


def _vlans(kind: int, verb: str, ifindex: int, infos: Sequence[bytes]) -> Request:
    body = link_header(ifindex, family=AF_BRIDGE) + nested(IFLA_AF_SPEC, *infos)
    return Request(kind, body, f"{verb} VLANs")


def vlan_attributes(ranges: Iterable[tuple[int, int]], *, is_untagged: bool) -> list[bytes]:
    """Return the attributes for VLANs of a bridge port.

    Args:
        ranges: The first and last VLAN of each range; not checked.
        is_untagged: Frames of the VLAN are untagged in both directions. There must be only one
            VLAN.
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
    """Bind an address to a port in all its VLANs: a frame from another port cannot move it."""
    body = struct.pack("=BxxxiHBB", AF_BRIDGE, ifindex, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY, 0)
    body += attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
    return Request(RTM_NEWNEIGH, body, "bind the MAC address", NLM_F_CREATE | NLM_F_REPLACE)


def set_up(ifindex: int, *, is_isolated: bool) -> Request:
    """Give a port the options for a guest and set it up, in this order, in one request."""
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
    """Make a device of a kind. It must not exist."""
    body = link_header(0) + attribute(IFLA_IFNAME, ifname.encode() + b"\0")
    body += attribute(_IFLA_TXQLEN, struct.pack("=I", tx_queue_frames))
    body += attribute(_IFLA_NUM_TX_QUEUES, struct.pack("=I", tx_queues))
    body += nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode() + b"\0"))
    return Request(RTM_NEWLINK, body, f"make a device of kind {kind}", NLM_F_CREATE | NLM_F_EXCL)


def set_up_device(ifindex: int) -> Request:
    """Set a device up."""
    return Request(RTM_NEWLINK, link_header(ifindex, flags=IFF_UP), "set the device up")


def set_down(ifindex: int) -> Request:
    """Set a device down, so that it passes no frame."""
    body = struct.pack("=BxHiII", 0, 0, ifindex, 0, IFF_UP)
    return Request(RTM_NEWLINK, body, "set the device down")


def delete_link(ifindex: int) -> Request:
    """Remove a device, even if a process has it open."""
    return Request(RTM_DELLINK, link_header(ifindex), "remove the device")


def link_header(ifindex: int, *, family: int = 0, flags: int = 0) -> bytes:
    """Return a `struct ifinfomsg` that changes only the given flags."""
    return struct.pack("=BxHiII", family, 0, ifindex, flags, flags)


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute: length, type, value, padding to four bytes (man 7 rtnetlink)."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, *values: bytes) -> bytes:
    """Return an attribute that holds others."""
    return attribute(kind | _NLA_F_NESTED, b"".join(values))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each attribute in `data`; ignore an incomplete one at the end."""
    at, end = 0, len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not 4 <= length <= end - at:
            return
        yield kind & _NLA_TYPE_MASK, data[at + 4 : at + length]
        at += length + (-length % 4)


def pick(data: bytes, *kinds: int) -> dict[int, bytes]:
    """Return the first attribute of each of `kinds` in `data`; stop when all are found.

    It is three times as fast as `attributes`: the answer about a bridge has eighty attributes, and
    a start has to wait.
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
