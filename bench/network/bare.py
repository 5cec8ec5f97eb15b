"""One NIC attached by the bare calls: what the kernel and libnftables take for it, and no more.

The same state as `PortManager.attach` leaves: TAP by ioctl, vhost-net open, its two settings in
/proc/sys, elements of the filter, port of the bridge with its VLAN, address and options, VLAN of
the uplink. The requests and the text are the product's own and complete before the clock runs; only
the ifindex, which nobody can know, is put into them. No check, no undo, no lock, no thread.
"""

import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from qemu_node.net.filter.elements import add_text, delete_text, elements
from qemu_node.net.filter.nft import Nft
from qemu_node.net.netlink.messages import Request, add_vlans, delete_vlans
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.port.bridge import check_bridge
from qemu_node.net.port.bridgeport import join_bridge, open_port
from qemu_node.net.portspec import PortSpec
from qemu_node.vlans import to_ranges

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TAP_FLAGS = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
_SYSCTLS = (("ipv6", "disable_ipv6"), ("ipv4", "rp_filter"))

_REQUEST_ACK = 0x1 | 0x4  # NLM_F_REQUEST, NLM_F_ACK: linux/netlink.h
_IFINDEX_AT = 20
"""Of links and neighbours alike: after `struct nlmsghdr`, family, padding and type."""


class _Recorder(RouteSocket):
    """Keeps what the product would send."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[bytearray] = []

    def do(self, *requests: Request) -> None:
        for kind, body, _, flags in requests:
            header = struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST_ACK, 0, 0)
            self.requests.append(bytearray(header + body))


class BarePort:
    """A port of one queue, prepared; made and removed by bare calls in this thread's network."""

    def __init__(self, spec: PortSpec, bridge: str, uplink: str) -> None:
        self._ifname = spec.ifname
        self._add_text = add_text(elements(spec))
        self._delete_text = delete_text(elements(spec), are_there=True)
        self._vhost = Path("/dev/vhost-net").exists()
        self._fds: list[int] = []
        uplink_index = socket.if_nametoindex(uplink)
        with RouteSocket() as route:
            facts = check_bridge(route, bridge)
        with _Recorder() as recorder:
            join_bridge(recorder, spec, 0, facts, is_new=True)
            open_port(recorder, spec, 0)
            self._requests = list(recorder.requests)
            recorder.requests.clear()
            recorder.do(
                add_vlans(uplink_index, to_ranges(spec.vids)),
                delete_vlans(uplink_index, to_ranges(spec.vids)),
            )
            self._add_uplink, self._remove_uplink = recorder.requests

    def attach(self, nft: Nft, route: socket.socket) -> None:
        """Make the port: this is what is timed."""
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._fds.append(fd)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", self._ifname.encode(), _TAP_FLAGS))
        ifindex = socket.if_nametoindex(self._ifname)
        for family, name in _SYSCTLS:
            with suppress(FileNotFoundError):
                _write(f"/proc/sys/net/{family}/conf/{self._ifname}/{name}")
        if self._vhost:
            self._fds.append(os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC))
        nft.run(self._add_text)
        for request in self._requests:
            struct.pack_into("=i", request, _IFINDEX_AT, ifindex)
            _ask(route, request)
        _ask(route, self._add_uplink)

    def remove(self, nft: Nft, route: socket.socket) -> None:
        """Leave nothing of the port."""
        nft.run(self._delete_text)
        _ask(route, self._remove_uplink)
        while self._fds:
            os.close(self._fds.pop())


def _write(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, b"1")
    os.close(fd)


def _ask(route: socket.socket, request: bytearray) -> None:
    """Send a request and see that it was done."""
    route.send(request)
    (code,) = struct.unpack_from("=i", route.recv(4096), 16)
    if code:
        raise OSError(-code, os.strerror(-code))
