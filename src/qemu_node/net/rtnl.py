"""The few rtnetlink requests on a VM's way to its network, packed by hand.

Owns their layout and their errors. Does not own reading what there is, nor rate limits (`link`),
nor the order of the steps (`port`).

pyroute2 could send them; its asyncio core takes six times as long for each as the kernel does, and
here a start waits. These calls block, a millisecond at most: use a thread. Numbers are those of
include/uapi/linux/{netlink,rtnetlink,if_link,if_bridge,neighbour}.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from qemu_node.net.errors import NetworkError
from qemu_node.net.facts import BridgeFacts, LinkFacts, PortVlans

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLM_F_REPLACE, _NLM_F_CREATE = 0x100, 0x400
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSGERR_ATTR_MSG = 1
_ATTRIBUTE = struct.Struct("=HH")
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK, _RTM_NEWNEIGH = 16, 17, 18, 19, 28
_RTM_GETVLAN = 114
_BRIDGE_VLANDB_ENTRY, _VLANDB_ENTRY_INFO, _VLANDB_ENTRY_RANGE = 1, 1, 2
_AF_BRIDGE = 7
_IFF_UP = 1

_IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_AF_SPEC = 3, 4, 10, 18, 26
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_IFLA_BR_VLAN_FILTERING, _IFLA_BR_VLAN_DEFAULT_PVID = 7, 39
_IFLA_BRIDGE_VLAN_INFO = 2
_VLAN_PVID, _VLAN_UNTAGGED, _VLAN_RANGE_BEGIN, _VLAN_RANGE_END = 0x2, 0x4, 0x8, 0x10
_NDA_LLADDR, _NUD_NOARP, _NTF_MASTER, _NTF_STICKY = 2, 0x40, 0x04, 0x40

_RECEIVE_BYTES = 1 << 16
_TIMEOUT = struct.pack("@ll", 10, 0)
"""A `struct timeval`. The kernel has answered before a request is sent, so that nothing is waited
for; a timeout of Python's own would cost a poll for each call all the same."""


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
    """Return those of `kinds` that are in `data`, each once; looks no further than it must."""
    found: dict[int, bytes] = {}
    for kind, value in attributes(data):
        if kind in kinds:
            found[kind] = value
            if len(found) == len(kinds):
                break
    return found


def vlan_attributes(ranges: Iterable[tuple[int, int]], *, is_untagged: bool) -> list[bytes]:
    """Return the attributes that name VLANs to a bridge port.

    Args:
        ranges: First and last of each; they are not checked.
        is_untagged: The VLAN is that of untagged frames, both ways; it is one alone then.
    """
    flags = _VLAN_PVID | _VLAN_UNTAGGED if is_untagged else 0
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


def _link(ifindex: int, *, family: int = 0, flags: int = 0) -> bytes:
    """Return a `struct ifinfomsg` that changes the given flags alone."""
    return struct.pack("=BxHiII", family, 0, ifindex, flags, flags)


class RouteSocket:
    """A rtnetlink socket for a handful of requests, one after the other, of one thread."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sequence = 0
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def read_bridge(self, ifname: str) -> BridgeFacts | None:
        """Return what the device `ifname` is like as a bridge, None where there is none."""
        try:
            ifindex = socket.if_nametoindex(ifname)
        except OSError:
            return None
        reply = self._request(_RTM_GETLINK, _link(ifindex), f"read {ifname}")
        found = pick(reply[16:], _IFLA_MTU, _IFLA_LINKINFO)
        info = pick(found.get(_IFLA_LINKINFO, b""), _IFLA_INFO_KIND, _IFLA_INFO_DATA)
        if info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0") != b"bridge":
            return BridgeFacts(ifindex=ifindex, is_bridge=False)
        data = pick(
            info.get(_IFLA_INFO_DATA, b""), _IFLA_BR_VLAN_FILTERING, _IFLA_BR_VLAN_DEFAULT_PVID
        )
        (mtu,) = struct.unpack("=I", found[_IFLA_MTU])
        # A kernel without VLAN filtering leaves both out.
        (default_pvid,) = struct.unpack("=H", data.get(_IFLA_BR_VLAN_DEFAULT_PVID, b"\0\0"))
        return BridgeFacts(
            ifindex=ifindex,
            is_bridge=True,
            vlan_filtering=data.get(_IFLA_BR_VLAN_FILTERING, b"\0") != b"\0",
            default_pvid=default_pvid,
            mtu=mtu,
        )

    def read_links(self) -> list[LinkFacts]:
        """Return all devices of this network namespace."""
        links = []
        for message in self._dump(_RTM_GETLINK, _link(0), "read devices"):
            ifindex, flags = struct.unpack_from("=iI", message, 4)
            found = dict(attributes(message[16:]))
            links.append(
                LinkFacts(
                    ifname=found[_IFLA_IFNAME].rstrip(b"\0").decode(errors="replace"),
                    ifindex=ifindex,
                    master=struct.unpack("=I", found.get(_IFLA_MASTER, b"\0" * 4))[0],
                    is_up=bool(flags & _IFF_UP),
                )
            )
        return links

    def read_vlans(self, ifindex: int = 0) -> dict[int, PortVlans]:
        """Return the VLANs of bridge ports, and of bridges themselves, by ifindex.

        Args:
            ifindex: One device; 0: of all of this network namespace, those without VLANs left out.
        """
        found: dict[int, tuple[set[int], set[int]]] = {}
        body = struct.pack("=BxxxI", _AF_BRIDGE, ifindex)
        for message in self._dump(_RTM_GETVLAN, body, "read VLANs"):
            (index,) = struct.unpack_from("=I", message, 4)
            vids, untagged = found.setdefault(index, (set(), set()))
            for kind, entry in attributes(message[8:]):
                if kind != _BRIDGE_VLANDB_ENTRY:
                    continue
                values = dict(attributes(entry))
                flags, first = struct.unpack_from("=HH", values[_VLANDB_ENTRY_INFO])
                (last,) = struct.unpack(
                    "=H", values.get(_VLANDB_ENTRY_RANGE, struct.pack("=H", first))
                )
                vids.update(range(first, last + 1))
                if flags & (_VLAN_PVID | _VLAN_UNTAGGED):
                    untagged.update(range(first, last + 1))
        return {
            index: PortVlans(vids=frozenset(vids), untagged=frozenset(untagged))
            for index, (vids, untagged) in found.items()
        }

    def set_master(self, ifindex: int, master: int, mtu: int) -> None:
        """Make the device a port of the bridge `master`, with its MTU, so that it keeps its own."""
        body = _link(ifindex)
        body += attribute(_IFLA_MTU, struct.pack("=I", mtu))
        body += attribute(_IFLA_MASTER, struct.pack("=I", master))
        self._request(_RTM_NEWLINK, body, "join the bridge")

    def add_vlans(
        self, ifindex: int, ranges: Sequence[tuple[int, int]], *, is_untagged: bool = False
    ) -> None:
        """Let a port carry VLANs; those it carries already it then carries as told."""
        self._vlans(_RTM_SETLINK, "add", ifindex, ranges, is_untagged=is_untagged)

    def delete_vlans(self, ifindex: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Let a port carry VLANs no longer; those it does not carry are no error."""
        self._vlans(_RTM_DELLINK, "remove", ifindex, ranges, is_untagged=False)

    def _vlans(
        self,
        request: int,
        verb: str,
        ifindex: int,
        ranges: Sequence[tuple[int, int]],
        *,
        is_untagged: bool,
    ) -> None:
        infos = vlan_attributes(ranges, is_untagged=is_untagged)
        body = _link(ifindex, family=_AF_BRIDGE) + nested(_IFLA_AF_SPEC, *infos)
        self._request(request, body, f"{verb} VLANs")

    def add_address(self, ifindex: int, mac: str) -> None:
        """Tie an address to a port, in all its VLANs: no frame from elsewhere moves it."""
        body = struct.pack(
            "=BxxxiHBB", _AF_BRIDGE, ifindex, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY, 0
        )
        body += attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
        self._request(
            _RTM_NEWNEIGH, body, "tie the MAC address", flags=_NLM_F_CREATE | _NLM_F_REPLACE
        )

    def open_port(self, ifindex: int, *, is_isolated: bool) -> None:
        """Give a port the options of a guest's, then set it up: in one request, in this order."""
        options = {**_PORT_OPTIONS, _BRPORT_ISOLATED: bytes([is_isolated])}
        body = _link(ifindex, flags=_IFF_UP) + nested(
            _IFLA_LINKINFO,
            attribute(_IFLA_INFO_SLAVE_KIND, b"bridge\0"),
            nested(_IFLA_INFO_SLAVE_DATA, *(attribute(*option) for option in options.items())),
        )
        self._request(_RTM_NEWLINK, body, "set the port's options")

    def delete_link(self, ifindex: int) -> None:
        """Remove a device, whoever holds it open."""
        self._request(_RTM_DELLINK, _link(ifindex), "remove the device")

    def _request(self, request: int, body: bytes, what: str, *, flags: int = 0) -> bytes:
        """Send one request and return the reply's payload, empty where it is just done.

        Raises:
            NetworkError: the kernel refused it; nothing was changed, but for VLANs, which it takes
                one by one.
        """
        self._sequence += 1
        flags |= _NLM_F_REQUEST | (0 if request == _RTM_GETLINK else _NLM_F_ACK)
        header = struct.pack("=IHHII", 16 + len(body), request, flags, self._sequence, 0)
        try:
            self._socket.send(header + body)
            reply = self._socket.recv(_RECEIVE_BYTES)
        except OSError as exc:
            raise NetworkError(f"cannot {what}: {exc.strerror or exc}") from exc
        _, kind, _, _, _ = struct.unpack_from("=IHHII", reply)
        if kind != _NLMSG_ERROR:
            return reply[16:]
        (code,) = struct.unpack_from("=i", reply, 16)
        if code:
            # After the code the header of our request, then what the kernel says in words.
            words = dict(attributes(reply[36:])).get(_NLMSGERR_ATTR_MSG, b"")
            text = words.rstrip(b"\0").decode(errors="replace") or os.strerror(-code)
            hint = "the driver must run as root" if -code == errno.EPERM else None
            raise NetworkError(f"cannot {what}: {text}", hint=hint)
        return b""

    def _dump(self, request: int, body: bytes, what: str) -> Iterator[bytes]:
        """Yield the payload of each message of a listing.

        Raises:
            NetworkError: the kernel refused, or knows no such listing.
        """
        self._sequence += 1
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        header = struct.pack("=IHHII", 16 + len(body), request, flags, self._sequence, 0)
        try:
            self._socket.send(header + body)
            while True:
                data = self._socket.recv(_RECEIVE_BYTES)
                while len(data) >= 16:
                    length, kind, _, _, _ = struct.unpack_from("=IHHII", data)
                    # Either end carries the error code of the whole.
                    if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                        (code,) = struct.unpack_from("=i", data, 16)
                        if code:
                            raise NetworkError(f"cannot {what}: {os.strerror(-code)}")
                        return
                    yield data[16:length]
                    data = data[length + (-length % 4) :]
        except OSError as exc:
            raise NetworkError(f"cannot {what}: {exc.strerror or exc}") from exc
