"""The requests to the kernel's traffic control for frames that a guest sends. Pure.

Owns the layout of these messages. Does not own sending them (`rtnl`) nor what they are for
(`port.rate`, `port.checksums`). Numbers are those of
include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h and include/uapi/linux/tc_act/tc_mirred.h.

A TAP's filters run in the order of their priority: first the policer, then the redirect.
"""

import socket
import struct
from collections.abc import Iterable, Iterator

from qemu_node.net.netlink.messages import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
    attributes,
    nested,
    pick,
)

RTM_GETTFILTER = 46
_RTM_NEWQDISC, _RTM_NEWTFILTER, _RTM_DELTFILTER = 36, 44, 45
_TC = struct.Struct("=BxxxiIII")
"""`struct tcmsg`: family, ifindex, handle, parent, info."""
_TC_H_ROOT, _TC_H_CLSACT, _CLSACT_HANDLE, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
_ETH_P_ALL = 3
_TCA_KIND, _TCA_OPTIONS, _TCA_MATCHALL_ACT, _TCA_ACT_KIND, _TCA_ACT_OPTIONS = 1, 2, 2, 1, 2
_TCA_POLICE_TBF, _TCA_POLICE_RATE, _TCA_POLICE_RESULT, _TCA_MIRRED_PARMS = 1, 2, 5, 2
_TC_ACT_UNSPEC, _TC_ACT_SHOT, _TC_ACT_STOLEN, _TCA_EGRESS_REDIR = -1, 2, 4, 1
_RATE_TABLE_BYTES = 1024
_TICK_NS = 64
_MIRRED = struct.Struct("=IIiiiiI")

_POLICER, _REDIRECT = 1, 2
"""Priorities."""


def no_queue(ifindex: int) -> Request:
    """Let a device send without a queue, on the CPU that has the frame."""
    body = _TC.pack(0, ifindex, 0, _TC_H_ROOT, 0) + attribute(_TCA_KIND, b"noqueue\0")
    return Request(_RTM_NEWQDISC, body, "set a queueing discipline", NLM_F_CREATE | NLM_F_REPLACE)


def redirect(ifindex: int, target: int) -> list[Request]:
    """Redirect frames that come in at a device to another one. There must be no redirect yet."""
    parameters = _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, target)
    action = _action(b"mirred", attribute(_TCA_MIRRED_PARMS, parameters))
    return [_classifier(ifindex), _matchall(ifindex, _REDIRECT, action)]


def forget_redirect(ifindex: int) -> Request:
    """Remove the filter of `redirect`, which must exist."""
    body = _TC.pack(0, ifindex, 0, _INGRESS, _info(_REDIRECT))
    return Request(_RTM_DELTFILTER, body, "remove a filter")


def police(ifindex: int, rate_bytes_per_s: int, burst_bytes: int, mtu_bytes: int) -> list[Request]:
    """Drop incoming frames of a device above a rate."""
    burst_ticks = burst_bytes * 1_000_000_000 // rate_bytes_per_s // _TICK_NS
    # The table of rates must be present, but Linux has ignored its content since 3.8.
    rate = struct.pack("=BBHhHI", 3, 0, 0, -1, 0, rate_bytes_per_s)
    parameters = struct.pack("=IiIII", 0, _TC_ACT_SHOT, 0, burst_ticks, mtu_bytes)
    action = _action(
        b"police",
        attribute(_TCA_POLICE_TBF, parameters + rate + bytes(12 + 12)),
        attribute(_TCA_POLICE_RATE, bytes(_RATE_TABLE_BYTES)),
        attribute(_TCA_POLICE_RESULT, struct.pack("=i", _TC_ACT_UNSPEC)),
    )
    return [_classifier(ifindex), _matchall(ifindex, _POLICER, action)]


def listing(ifindex: int) -> bytes:
    """Return the body of a request for a device's filters of incoming frames."""
    return _TC.pack(0, ifindex, 0, _INGRESS, 0)


def redirected_to(filters: Iterable[bytes]) -> Iterator[int]:
    """Yield the devices to which the filters in a listing redirect."""
    for answer in filters:
        options = pick(answer[_TC.size :], _TCA_OPTIONS).get(_TCA_OPTIONS, b"")
        actions = pick(options, _TCA_MATCHALL_ACT).get(_TCA_MATCHALL_ACT, b"")
        for _, action in attributes(actions):
            found = pick(action, _TCA_ACT_KIND, _TCA_ACT_OPTIONS)
            parameters = pick(found.get(_TCA_ACT_OPTIONS, b""), _TCA_MIRRED_PARMS)
            if found.get(_TCA_ACT_KIND) == b"mirred\0" and parameters:
                *_, target = _MIRRED.unpack_from(parameters[_TCA_MIRRED_PARMS])
                yield target


def _classifier(ifindex: int) -> Request:
    """Let a device have filters. Idempotent."""
    body = _TC.pack(0, ifindex, _CLSACT_HANDLE, _TC_H_CLSACT, 0)
    body += attribute(_TCA_KIND, b"clsact\0")
    return Request(_RTM_NEWQDISC, body, "set a queueing discipline", NLM_F_CREATE)


def _matchall(ifindex: int, priority: int, action: bytes) -> Request:
    body = _TC.pack(0, ifindex, 0, _INGRESS, _info(priority))
    body += attribute(_TCA_KIND, b"matchall\0")
    body += nested(_TCA_OPTIONS, nested(_TCA_MATCHALL_ACT, action))
    return Request(_RTM_NEWTFILTER, body, "add a filter", NLM_F_CREATE | NLM_F_EXCL)


def _action(kind: bytes, *options: bytes) -> bytes:
    """Return a list of one action."""
    return nested(1, attribute(_TCA_ACT_KIND, kind + b"\0"), nested(_TCA_ACT_OPTIONS, *options))


def _info(priority: int) -> int:
    """Return the priority, with "all protocols"."""
    return priority << 16 | socket.htons(_ETH_P_ALL)
