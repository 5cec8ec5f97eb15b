"""The socket to rtnetlink: sending requests, reading what there is, and the errors of both.

Owns the exchange and the layout of what the kernel answers. Does not own that of requests that
change something (`messages`). These calls block, a millisecond at most unless others hold the
kernel's RTNL lock: use a thread. Numbers are those of
include/uapi/linux/{netlink,rtnetlink,if_link,if_bridge}.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from qemu_node.net.errors import NetworkError
from qemu_node.net.netlink.facts import BridgeFacts, DeviceFacts, LinkFacts, PortVlans
from qemu_node.net.netlink.messages import (
    AF_BRIDGE,
    IFF_UP,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    VLAN_PVID,
    VLAN_UNTAGGED,
    Request,
    active_port,
    attribute,
    attributes,
    link_header,
    pick,
)

_HEADER = struct.Struct("=IHHII")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_MULTI, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x2, 0x4, 0x300
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSGERR_ATTR_MSG = 1

_RTM_GETLINK, _RTM_GETVLAN = 18, 114
_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS = 29, 1 << 3
_IFLA_BR_VLAN_FILTERING, _IFLA_BR_MCAST_SNOOPING, _IFLA_BR_VLAN_DEFAULT_PVID = 7, 23, 39
_BRIDGE_VLANDB_ENTRY, _VLANDB_ENTRY_INFO, _VLANDB_ENTRY_RANGE = 1, 1, 2

_RECEIVE_BYTES = 1 << 16
_TIMEOUT = struct.pack("@ll", 10, 0)
"""A `struct timeval`. The kernel has answered before a request is sent, so that nothing is waited
for; a timeout of Python's own would cost a poll for each call all the same."""


_Answer = tuple[int, int, bytes]
"""The sequence number of what is answered, the answer's type and its payload."""


class RouteSocket:
    """A rtnetlink socket, for one thread at a time.

    It is opened by the first request. One that failed without an answer closes it, and the next
    opens another: the answer might still come.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, if it is open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # Changing

    def do(self, *requests: Request) -> None:
        """Send requests to the kernel in one call, and see that all of them were done.

        The kernel does them in this order, and goes on after one that it refuses.

        Raises:
            NetworkError: it refused one, and this is the first of them. That one changed nothing,
                but for VLANs, which the kernel takes one by one.
        """
        first, last = self._sequence + 1, self._sequence + len(requests)
        # A refusal is told in any case; that the last one is done says that there are no others.
        messages = [
            _message(kind, flags | (_NLM_F_ACK if number == last else 0), number, body)
            for number, (kind, body, _, flags) in enumerate(requests, first)
        ]
        for sequence, _, payload in self._exchange(b"".join(messages), last, requests[0].what):
            _check(payload, requests[sequence - first].what)

    # Reading

    def read_bridge(self, ifname: str) -> BridgeFacts | None:
        """Return what the device `ifname` is like as a bridge, None where there is none."""
        link = self._read_link(ifname)
        return None if link is None else _bridge_facts(link)

    def has_link(self, ifname: str) -> bool:
        """Tell whether there is a device of this name.

        To ask for its index by ioctl, as `socket.if_nametoindex` does, would have the kernel look
        for a module of its name, by a process (`dev_load`).
        """
        return self._read_link(ifname) is not None

    def _read_link(self, ifname: str) -> bytes | None:
        """Return the kernel's description of a device, without its counters; None: no such one."""
        what = f"read {ifname}"
        body = link_header(0) + attribute(IFLA_IFNAME, ifname.encode() + b"\0")
        body += attribute(_IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))
        [(_, kind, reply)] = self._ask(_RTM_GETLINK, body, what)
        if kind == _NLMSG_ERROR:
            if struct.unpack_from("=i", reply) == (-errno.ENODEV,):
                return None
            _check(reply, what)
        return reply

    def read_device(self, ifname: str) -> DeviceFacts | None:
        """Return what kind of device `ifname` is, None where there is none."""
        link = self._read_link(ifname)
        return None if link is None else _device_facts(link)

    def read_links(self) -> list[LinkFacts]:
        """Return all devices of this network namespace."""
        links = []
        for message in self.dump(_RTM_GETLINK, link_header(0), "read devices"):
            ifindex, flags = struct.unpack_from("=iI", message, 4)
            found = dict(attributes(message[16:]))
            links.append(
                LinkFacts(
                    ifname=found[IFLA_IFNAME].rstrip(b"\0").decode(errors="replace"),
                    ifindex=ifindex,
                    master=struct.unpack("=I", found.get(IFLA_MASTER, b"\0" * 4))[0],
                    is_up=bool(flags & IFF_UP),
                    active_port=active_port(found),
                )
            )
        return links

    def read_vlans(self, ifindex: int = 0) -> dict[int, PortVlans]:
        """Return the VLANs of bridge ports, and of bridges themselves, by ifindex.

        Args:
            ifindex: One device; 0: of all of this network namespace, those without VLANs left out.
        """
        found: dict[int, tuple[set[int], set[int]]] = {}
        body = struct.pack("=BxxxI", AF_BRIDGE, ifindex)
        for message in self.dump(_RTM_GETVLAN, body, "read VLANs"):
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
                if flags & (VLAN_PVID | VLAN_UNTAGGED):
                    untagged.update(range(first, last + 1))
        return {
            index: PortVlans(vids=frozenset(vids), untagged=frozenset(untagged))
            for index, (vids, untagged) in found.items()
        }

    def dump(self, kind: int, body: bytes, what: str) -> Iterator[bytes]:
        """Yield the payload of each message of a listing.

        Raises:
            NetworkError: the kernel refused, or knows no such listing.
        """
        for _, answer, payload in self._ask(kind, body, what, _NLM_F_DUMP):
            # Either end carries the error code of the whole.
            if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                _check(payload, what)
            else:
                yield payload

    def _ask(self, kind: int, body: bytes, what: str, flags: int = 0) -> list[_Answer]:
        number = self._sequence + 1
        return self._exchange(_message(kind, flags, number, body), number, what)

    # Both

    def _exchange(self, messages: bytes, last: int, what: str) -> list[_Answer]:
        """Send messages, and return all that the kernel answers to them.

        Args:
            messages: All complete.
            last: The sequence number of the last one, which is one that is answered in any case.
            what: What an error says could not be done.

        Raises:
            NetworkError: there was no answer.
        """
        self._sequence = last
        answers = []
        try:
            if self._socket is None:
                self._socket = _open()
            self._socket.send(messages)
            while True:
                data = self._socket.recv(_RECEIVE_BYTES)
                while data:
                    length, kind, flags, sequence, _ = _HEADER.unpack_from(data)
                    answers.append((sequence, kind, data[_HEADER.size : length]))
                    is_end = kind in (_NLMSG_ERROR, _NLMSG_DONE) or not flags & _NLM_F_MULTI
                    if sequence == last and is_end:
                        return answers
                    data = data[length + (-length % 4) :]
        except OSError as exc:
            self.close()
            raise NetworkError(f"cannot {what}: {exc.strerror or exc}") from exc


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
        sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a message, padded so that another one can follow."""
    header = _HEADER.pack(_HEADER.size + len(body), kind, flags | _NLM_F_REQUEST, sequence, 0)
    return header + body + b"\0" * (-len(body) % 4)


def _check(payload: bytes, what: str) -> None:
    """Raise the error that the kernel tells, if it tells one.

    Raises:
        NetworkError: in the kernel's own words, where it has any.
    """
    (code,) = struct.unpack_from("=i", payload)
    if code:
        # After the code the header of our request, then what the kernel says in words.
        words = pick(payload[20:], _NLMSGERR_ATTR_MSG).get(_NLMSGERR_ATTR_MSG, b"")
        text = words.rstrip(b"\0").decode(errors="replace") or os.strerror(-code)
        hint = "the driver must run as root" if -code == errno.EPERM else None
        raise NetworkError(f"cannot {what}: {text}", hint=hint)


def _device_facts(link: bytes) -> DeviceFacts:
    """Return what the kernel's description of a device says that it is."""
    ifindex, flags = struct.unpack_from("=iI", link, 4)
    info = pick(pick(link[16:], IFLA_LINKINFO).get(IFLA_LINKINFO, b""), IFLA_INFO_KIND)
    kind = info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
    return DeviceFacts(ifindex=ifindex, kind=kind, is_up=bool(flags & IFF_UP))


def _bridge_facts(link: bytes) -> BridgeFacts:
    """Return what the kernel's description of a device says of it as a bridge."""
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
    # A kernel without VLAN filtering leaves both out.
    (default_pvid,) = struct.unpack("=H", data.get(_IFLA_BR_VLAN_DEFAULT_PVID, b"\0\0"))
    return BridgeFacts(
        ifindex=ifindex,
        is_bridge=True,
        mcast_snooping=data.get(_IFLA_BR_MCAST_SNOOPING, b"\0") != b"\0",
        vlan_filtering=data.get(_IFLA_BR_VLAN_FILTERING, b"\0") != b"\0",
        default_pvid=default_pvid,
        mtu=mtu,
    )
