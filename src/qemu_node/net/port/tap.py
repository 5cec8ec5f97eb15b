"""TAP devices: made here, held open by QEMU, removed with the last descriptor.

Owns opening them, their queues and vhost-net, and keeping the node's network stack off them. Does
not own what they are connected to (`bridgeport`).
"""

import errno
import fcntl
import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from qemu_node.host.files.atomic import host_error
from qemu_node.host.sysctl import write_sysctl
from qemu_node.net.errors import NetworkError, TapBusyError
from qemu_node.net.netlink.rtnl import RouteSocket

TUN = Path("/dev/net/tun")
"""The device that is opened to make a TAP."""
_VHOST_NET = Path("/dev/vhost-net")

# include/uapi/linux/if_tun.h
_TUNSETIFF, _TUNSETOWNER = 0x400454CA, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x0100
_IFF_VNET_HDR, _IFF_TUN_EXCL = 0x4000, 0x8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """An open TAP: one descriptor for each queue, and those of vhost-net, all close-on-exec."""

    ifname: str
    ifindex: int
    fds: tuple[int, ...]
    vhost_fds: tuple[int, ...]
    """As many as `fds`, or none; without them QEMU moves the frames itself."""

    def close(self) -> None:
        """Close our descriptors. Closing the last one, usually QEMU's, removes the device.

        That blocks for an RCU grace period, 16 ms or more for each device: use a thread.
        """
        for fd in (*self.fds, *self.vhost_fds):
            os.close(fd)


def check_free(route: RouteSocket, ifname: str) -> None:
    """Return if no device has this name, as `open_tap` requires.

    Raises:
        TapBusyError: one has.
        NetworkError: the kernel did not answer.
    """
    if route.has_link(ifname):
        raise _busy(ifname)


def _busy(ifname: str) -> TapBusyError:
    return TapBusyError(f"TAP {ifname} is in use", hint="a QEMU of this VM may still be running")


def open_tap(ifname: str, *, queues: int = 1, vhost: bool = True) -> Tap:
    """Return a new TAP: down, in no bridge, without an address, unused by the node's stack.

    Frames have a virtio-net header, as QEMU needs it.

    Args:
        ifname: Its name; at most 15 bytes, because the kernel cuts a longer one.
        queues: Queue pairs. With one, the device is not multi-queue.
        vhost: Open vhost-net for each queue, too, if this kernel has it.

    Raises:
        TapBusyError: a device has this name.
        NetworkError: the kernel refused; nothing is left.
    """
    with ExitStack() as undo:
        fds = tuple(_open_queue(ifname, n, queues, undo) for n in range(queues))
        try:
            ifindex = socket.if_nametoindex(ifname)
        except OSError as exc:
            raise NetworkError(f"TAP {ifname} has vanished: another process removed it") from exc
        _silence(ifname)
        vhost_fds = _open_vhost(queues, undo) if vhost else ()
        undo.pop_all()
    return Tap(ifname=ifname, ifindex=ifindex, fds=fds, vhost_fds=vhost_fds)


def _open_queue(ifname: str, number: int, queues: int, undo: ExitStack) -> int:
    """Return the descriptor of one queue; the first one makes the device."""
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise host_error("open", TUN, exc) from exc
    undo.callback(os.close, fd)
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    if queues > 1:
        flags |= _IFF_MULTI_QUEUE
    if number == 0:
        # Without this, opening an existing multi-queue device would add a queue to it.
        flags |= _IFF_TUN_EXCL
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", ifname.encode(), flags))
    except OSError as exc:
        if exc.errno in (errno.EBUSY, errno.EEXIST):
            raise _busy(ifname) from exc
        hint = "the driver must run as root" if exc.errno == errno.EPERM else None
        raise NetworkError(f"cannot make TAP {ifname}: {exc.strerror}", hint=hint) from exc
    if number == 0:
        # Any process that may open /dev/net/tun, which udev allows to all, could attach a queue to
        # a TAP without an owner (tun_not_capable in drivers/net/tun.c).
        fcntl.ioctl(fd, _TUNSETOWNER, 0)
    return fd


def _silence(ifname: str) -> None:
    """Keep the node's network stack off the TAP, in both directions.

    Otherwise the node sends neighbor and router solicitations from a link-local address into the
    guest as soon as the TAP is up. The strict reverse path filter drops frames that the stack
    receives on the TAP, because there is no route through it.
    """
    write_sysctl(f"net/ipv6/conf/{ifname}/disable_ipv6", 1)
    write_sysctl(f"net/ipv4/conf/{ifname}/rp_filter", 1)


def _open_vhost(queues: int, undo: ExitStack) -> tuple[int, ...]:
    """Return a vhost-net descriptor for each queue; none if this kernel has no vhost-net."""
    fds: list[int] = []
    for _ in range(queues):
        try:
            fd = os.open(_VHOST_NET, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            # It does not exist, its module cannot be loaded, or a container does not allow it.
            if not fds and exc.errno in (
                errno.ENOENT,
                errno.ENODEV,
                errno.ENXIO,
                errno.EPERM,
                errno.EACCES,
            ):
                return ()
            raise host_error("open", _VHOST_NET, exc) from exc
        undo.callback(os.close, fd)
        fds.append(fd)
    return tuple(fds)
