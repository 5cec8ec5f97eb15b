"""Where the kernel would deliver a packet: on this host, or outside.

Owns one query to rtnetlink. Does not own what follows from the answer.
"""

import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

# include/uapi/linux/netlink.h and rtnetlink.h
_NLMSG_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTATTR = struct.Struct("=HH")
_NLMSG_ERROR = 2
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_RTN_LOCAL = 2
_RTN_ANYCAST = 4

_TIMEOUT_S = 5.0


def is_own_address(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether what is sent to `address` stays on this host.

    The kernel's own view, as `ip route get` shows it: any address of any interface, loopback, and
    what a route of type `local` covers. An address without a route is not this host's.

    Raises:
        OSError: the kernel cannot be asked.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    destination = address.packed
    attribute = _RTATTR.pack(_RTATTR.size + len(destination), _RTA_DST) + destination
    message = _RTMSG.pack(family, len(destination) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute
    header = _NLMSG_HEADER.pack(
        _NLMSG_HEADER.size + len(message), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        netlink.sendto(header + message, (0, 0))
        return _is_local(netlink.recv(1 << 16))


def _is_local(reply: bytes) -> bool:
    _, kind, *_ = _NLMSG_HEADER.unpack_from(reply)
    if kind == _NLMSG_ERROR:
        # There is no route, or one that refuses. In both cases the packet does not reach this
        # host.
        (code,) = struct.unpack_from("=i", reply, _NLMSG_HEADER.size)
        if code in (0, -1):
            raise OSError(-code, os.strerror(-code))
        return False
    if kind != _RTM_NEWROUTE:
        raise OSError(f"rtnetlink answered with a message of type {kind}")
    return _RTMSG.unpack_from(reply, _NLMSG_HEADER.size)[7] in (_RTN_LOCAL, _RTN_ANYCAST)
