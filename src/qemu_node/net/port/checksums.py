"""The device that completes the checksums of strict ports before the filter sees a frame.

A guest may leave checksums and segmentation to the host. The virtio-net header, which the guest
writes, says where the checksum belongs. The kernel writes it there only after the bridge's rules
have seen the frame (`skb_checksum_help` in net/core/dev.c), so a guest could change a frame after
the filter. So frames of strict ports are first sent to a device of kind `ifb` that supports
neither: the kernel must complete them on the way. Then they come in again at their TAP.

Owns that device, one for the node. It stays when the driver ends, as the filter does: without it
strict ports pass no frame. Does not own which ports are strict (`policy`). Calls block: use a
thread.
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
"""networkd does not manage `qn*`. It is not a TAP's name (`portspec.TAP_NAME`)."""

_KIND = "ifb"
# Frames that wait while another CPU serves the same queue. The default is 32.
_QUEUE_FRAMES = 4096

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x16, 0x17  # linux/ethtool.h


def ensure_device(route: RouteSocket) -> int:
    """Return the ifindex of the device; make or repair it if needed.

    Raises:
        NetworkError: the kernel refused, or lacks `ifb`.
    """
    found = route.read_device(DEVICE)
    if found is None:
        # A queue for each CPU, so that a frame is completed on the CPU that sends it.
        queues = os.cpu_count() or 1
        try:
            route.do(make_device(DEVICE, _KIND, tx_queues=queues, tx_queue_frames=_QUEUE_FRAMES))
        except NetworkError as exc:
            hint = "strict ports need the kernel's ifb, act_mirred and cls_matchall"
            raise NetworkError(str(exc), hint=hint) from exc
        found = route.read_device(DEVICE)
    if found is None or found.kind != _KIND:
        raise NetworkError(f"{DEVICE} is not an {_KIND} device", hint=f"ip link del {DEVICE}")
    if _offloads():
        _switch_offload_off()
    if not found.is_up:
        write_sysctl(f"net/ipv6/conf/{DEVICE}/disable_ipv6", 1)
        route.do(no_queue(found.ifindex), set_up_device(found.ifindex))
    return found.ifindex


def is_redirected(route: RouteSocket, ifindex: int, device: int) -> bool:
    """Tell whether frames that come in at a TAP are redirected to the device.

    Raises:
        NetworkError: the kernel did not answer.
    """
    filters = route.dump(RTM_GETTFILTER, listing(ifindex), "read filters")
    return list(redirected_to(filters)) == [device]


def _offloads() -> bool:
    """Tell whether the device accepts frames whose checksum is not complete."""
    return bool(_ethtool(_ETHTOOL_GTXCSUM))


def _switch_offload_off() -> None:
    """Turn checksum offload off. The kernel then turns segmentation offload off, too."""
    _ethtool(_ETHTOOL_STXCSUM, 0)
    if _offloads():
        raise NetworkError(f"cannot turn off the checksum offload of {DEVICE}")


def _ethtool(command: int, value: int = 0) -> int:
    """Run an ethtool command whose argument is a number; return the number it writes back."""
    words = array("I", (command, value))
    request = struct.pack("16sP", DEVICE.encode(), words.buffer_info()[0]).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError as exc:
            raise NetworkError(f"cannot set offloads of {DEVICE}: {exc.strerror}") from exc
    return words[1]
