"""TAP devices: made here, held open by whoever runs the guest, gone with the last descriptor.

Owns opening them, their queues and vhost-net, and silencing the node's own stack on them. Does not
own what they are connected to (`bridgeport`).
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
"""What a TAP is opened as."""
_VHOST_NET = Path("/dev/vhost-net")

# include/uapi/linux/if_tun.h
_TUNSETIFF, _TUNSETOWNER = 0x400454CA, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x0100
_IFF_VNET_HDR, _IFF_TUN_EXCL = 0x4000, 0x8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """An open TAP: one descriptor for each queue, close-on-exec, and those of vhost-net."""

    ifname: str
    ifindex: int
    fds: tuple[int, ...]
    vhost_fds: tuple[int, ...]
    """As many as `fds`, or none: QEMU then moves the frames itself."""

    def close(self) -> None:
        """Close our descriptors. The last one to do so, QEMU mostly, removes the device.

        That waits for an RCU grace period, 16 ms or more for each device: use a thread.
        """
        for fd in (*self.fds, *self.vhost_fds):
            os.close(fd)


def check_free(route: RouteSocket, ifname: str) -> None:
    """See that no device has this name, as `open_tap` needs it.

    Raises:
        TapBusyError: one has.
        NetworkError: the kernel did not answer.
    """
    if route.has_link(ifname):
        raise _busy(ifname)


def _busy(ifname: str) -> TapBusyError:
    return TapBusyError(f"TAP {ifname} is in use", hint="a QEMU of this VM may still be running")


def open_tap(ifname: str, *, queues: int = 1, vhost: bool = True) -> Tap:
    """Return a new TAP, down, in no bridge, without an address, on which the node says nothing.

    Frames have a virtio-net header, as QEMU wants them.

    Args:
        ifname: Its name; at most 15 bytes, or the kernel would cut it.
        queues: Queue pairs. With one the device is no multi-queue device.
        vhost: Open vhost-net for each queue as well, where this kernel has it.

    Raises:
        TapBusyError: there is a device of this name.
        NetworkError: the kernel refused; nothing is left.
    """
    with ExitStack() as undo:
        fds = tuple(_open_queue(ifname, n, queues, undo) for n in range(queues))
        try:
            ifindex = socket.if_nametoindex(ifname)
        except OSError as exc:
            raise NetworkError(f"TAP {ifname} has vanished: somebody removed it") from exc
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
        # A multi-queue device that is there already would take us as one more of its queues.
        flags |= _IFF_TUN_EXCL
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", ifname.encode(), flags))
    except OSError as exc:
        if exc.errno in (errno.EBUSY, errno.EEXIST):
            raise _busy(ifname) from exc
        hint = "the driver must run as root" if exc.errno == errno.EPERM else None
        raise NetworkError(f"cannot make TAP {ifname}: {exc.strerror}", hint=hint) from exc
    if number == 0:
        # A TAP without an owner is everybody's: whoever may open /dev/net/tun, and udev lets all,
        # could become one more queue of it (tun_not_capable in drivers/net/tun.c).
        fcntl.ioctl(fd, _TUNSETOWNER, 0)
    return fd


def _silence(ifname: str) -> None:
    """Keep the node's own stack off the TAP, both ways.

    Else the node sends neighbor and router solicitations from a link-local address into the guest
    as soon as the TAP is up. A frame that reaches the stack as received on the TAP is dropped by
    the strict reverse path filter: there is no route through it.
    """
    write_sysctl(f"net/ipv6/conf/{ifname}/disable_ipv6", 1)
    write_sysctl(f"net/ipv4/conf/{ifname}/rp_filter", 1)


def _open_vhost(queues: int, undo: ExitStack) -> tuple[int, ...]:
    """Return a vhost-net descriptor for each queue; none where this kernel has no vhost-net."""
    fds: list[int] = []
    for _ in range(queues):
        try:
            fd = os.open(_VHOST_NET, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            # Not there, the module not loadable, or a container's rules.
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
