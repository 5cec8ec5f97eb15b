"""The socket to rtnetlink: sending requests, reading the state, and errors.

Owns the exchange. Does not own the layout of requests (`messages`) and answers (`answers`). Calls
block, for a millisecond at most unless another process holds the kernel's RTNL lock: use a thread.
Numbers are those of include/uapi/linux/{netlink,rtnetlink,if_link}.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

from qemu_node.net.errors import NetworkError
from qemu_node.net.netlink.answers import (
    BridgeFacts,
    DeviceFacts,
    LinkFacts,
    PortVlans,
    bridge_facts,
    device_facts,
    link_facts,
    port_vlans,
)
from qemu_node.net.netlink.messages import (
    AF_BRIDGE,
    IFLA_IFNAME,
    Request,
    attribute,
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

_RECEIVE_BYTES = 1 << 16
_TIMEOUT = struct.pack("@ll", 10, 0)
"""A `struct timeval`. The kernel's answer is there as soon as the request is sent; Python's own
timeout would add a poll(2) to each call."""


_Answer = tuple[int, int, bytes]
"""The sequence number of the request, the answer's type and its payload."""


class RouteSocket:
    """A rtnetlink socket, for one thread at a time.

    The first request opens it. A request that gets no answer closes it, and the next one opens a
    new socket, because a late answer might still arrive.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, if it is open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # Changing

    def do(self, *requests: Request) -> None:
        """Send requests to the kernel in one call; raise unless all were done.

        The kernel handles them in this order, and continues after one that it refuses.

        Raises:
            NetworkError: the kernel refused a request; the error is that of the first one. A
                refused request changed nothing, except for VLANs, which the kernel sets one by one.
        """
        first, last = self._sequence + 1, self._sequence + len(requests)
        # The kernel always reports a refusal. The answer to the last request shows that there are
        # no more.
        messages = [
            _message(kind, flags | (_NLM_F_ACK if number == last else 0), number, body)
            for number, (kind, body, _, flags) in enumerate(requests, first)
        ]
        for sequence, _, payload in self._exchange(b"".join(messages), last, requests[0].what):
            _check(payload, requests[sequence - first].what)

    # Reading

    def read_bridge(self, ifname: str) -> BridgeFacts | None:
        """Return the bridge settings of the device `ifname`; None if it does not exist."""
        link = self._read_link(ifname)
        return None if link is None else bridge_facts(link)

    def has_link(self, ifname: str) -> bool:
        """Tell whether a device of this name exists.

        Not by `socket.if_nametoindex`: its ioctl makes the kernel start a process that looks for a
        module of that name (`dev_load`).
        """
        return self._read_link(ifname) is not None

    def _read_link(self, ifname: str) -> bytes | None:
        """Return the kernel's description of a device, without counters; None if there is none."""
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
        """Return the kind of the device `ifname`; None if it does not exist."""
        link = self._read_link(ifname)
        return None if link is None else device_facts(link)

    def read_links(self) -> list[LinkFacts]:
        """Return all devices of this network namespace."""
        listing = self.dump(_RTM_GETLINK, link_header(0), "read devices")
        return [link_facts(link) for link in listing]

    def read_vlans(self, ifindex: int = 0) -> dict[int, PortVlans]:
        """Return the VLANs of bridges and their ports, by ifindex.

        Args:
            ifindex: One device; 0: all devices with VLANs in this network namespace.
        """
        body = struct.pack("=BxxxI", AF_BRIDGE, ifindex)
        return port_vlans(self.dump(_RTM_GETVLAN, body, "read VLANs"))

    def dump(self, kind: int, body: bytes, what: str) -> Iterator[bytes]:
        """Yield the payload of each message of a listing.

        Raises:
            NetworkError: the kernel refused, or does not know this listing.
        """
        for _, answer, payload in self._ask(kind, body, what, _NLM_F_DUMP):
            # Both of them end the listing and hold its error code.
            if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                _check(payload, what)
            else:
                yield payload

    def _ask(self, kind: int, body: bytes, what: str, flags: int = 0) -> list[_Answer]:
        number = self._sequence + 1
        return self._exchange(_message(kind, flags, number, body), number, what)

    # Both

    def _exchange(self, messages: bytes, last: int, what: str) -> list[_Answer]:
        """Send messages and return all answers of the kernel.

        Args:
            messages: Complete messages.
            last: The sequence number of the last one, which must be one that the kernel always
                answers.
            what: What cannot be done, for the error message.
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
    """Return a message, padded so that another can follow."""
    header = _HEADER.pack(_HEADER.size + len(body), kind, flags | _NLM_F_REQUEST, sequence, 0)
    return header + body + b"\0" * (-len(body) % 4)


def _check(payload: bytes, what: str) -> None:
    """Raise the kernel's error, if there is one."""
    (code,) = struct.unpack_from("=i", payload)
    if code:
        # After the code come the header of our request and the kernel's message.
        words = pick(payload[20:], _NLMSGERR_ATTR_MSG).get(_NLMSGERR_ATTR_MSG, b"")
        text = words.rstrip(b"\0").decode(errors="replace") or os.strerror(-code)
        hint = "the driver must run as root" if -code == errno.EPERM else None
        raise NetworkError(f"cannot {what}: {text}", hint=hint)
