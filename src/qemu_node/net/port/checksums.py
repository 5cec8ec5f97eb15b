"""The device that finishes what strict ports left to others, before the filter sees a frame.

A guest may leave checksums and segmentation to whoever sends its frame on: the virtio-net header,
which is the guest's, says where. The kernel then writes a checksum of the guest's choice wherever
the guest wants it, after the rules of the bridge have looked (`skb_checksum_help` in
net/core/dev.c). So frames of strict ports first go out at a device of kind `ifb` that can neither,
so that the kernel does both on the way, and come in again at their TAP.

Owns that device, one for the node. It stays, as the filter does: without it strict ports pass no
frame. Does not own which ports are strict (`policy`). Calls block: use a thread.
"""

import fcntl
import os
import socket
import struct
from array import array

from qemu_node.host.sysctl import write_sysctl
from qemu_node.net.errors import NetworkError
from qemu_node.net.netlink.messages import make_device, set_up_device
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.netlink.traffic import RTM_GETTFILTER, listing, no_queue, redirected_to

DEVICE = "qn-checksums"
"""`qn*`, which networkd leaves alone; no name of a TAP (`portspec.TAP_NAME`)."""

_KIND = "ifb"
# Frames that wait while another CPU takes care of the same queue. The default is 32.
_QUEUE_FRAMES = 4096

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x16, 0x17  # linux/ethtool.h


def ensure_device(route: RouteSocket) -> int:
    """Return the ifindex of the device, made or put right unless it is as it should be.

    Raises:
        NetworkError: the kernel refused, or lacks `ifb`.
    """
    found = route.read_device(DEVICE)
    if found is None:
        # A queue for each CPU: what a guest sends is finished where it is sent.
        queues = os.cpu_count() or 1
        try:
            route.do(make_device(DEVICE, _KIND, tx_queues=queues, tx_queue_frames=_QUEUE_FRAMES))
        except NetworkError as exc:
            hint = "strict ports need the kernel's ifb, act_mirred and cls_matchall"
            raise NetworkError(str(exc), hint=hint) from exc
        found = route.read_device(DEVICE)
    if found is None or found.kind != _KIND:
        raise NetworkError(f"{DEVICE} is no {_KIND} device", hint=f"ip link del {DEVICE}")
    if _offloads():
        _switch_offload_off()
    if not found.is_up:
        write_sysctl(f"net/ipv6/conf/{DEVICE}/disable_ipv6", 1)
        route.do(no_queue(found.ifindex), set_up_device(found.ifindex))
    return found.ifindex


def is_redirected(route: RouteSocket, ifindex: int, device: int) -> bool:
    """Tell whether what comes in at a TAP goes through the device.

    Raises:
        NetworkError: the kernel did not answer.
    """
    filters = route.dump(RTM_GETTFILTER, listing(ifindex), "read filters")
    return list(redirected_to(filters)) == [device]


def _offloads() -> bool:
    """Tell whether the device takes frames whose checksum is not finished."""
    return bool(_ethtool(_ETHTOOL_GTXCSUM))


def _switch_offload_off() -> None:
    """Let it take none; without checksums the kernel leaves it no segmentation either."""
    _ethtool(_ETHTOOL_STXCSUM, 0)
    if _offloads():
        raise NetworkError(f"{DEVICE} goes on offloading checksums")


def _ethtool(command: int, value: int = 0) -> int:
    """Do one of the commands whose argument is a number, and return the number that it left."""
    words = array("I", (command, value))
    request = struct.pack("16sP", DEVICE.encode(), words.buffer_info()[0]).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError as exc:
            raise NetworkError(f"cannot set offloads of {DEVICE}: {exc.strerror}") from exc
    return words[1]
