"""The ends that frames are sent from and seen at: a wire outside, a guest's TAP, the node's stack.

Owns the sockets. Each end gives what arrived as `Arrival`, VLAN tags included, and never waits.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from network.frames import ETH_VLAN, TOKEN_BYTES, Tag, describe, parse_tags
from network.namespaces import inside

# linux/if_packet.h
_SOL_PACKET, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 263, 8, 23
_AUXDATA = struct.Struct("=IIIHHHH")
_VLAN_VALID, _VLAN_TPID_VALID = 0x10, 0x40
_ETH_P_ALL = 3
_TUNGETVNETHDRSZ = 0x800454D7  # linux/if_tun.h
_FRAME_MAX = 65536 + 64


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came in: whose it is, and what it looked like."""

    token: bytes
    tags: tuple[Tag, ...]
    text: str
    frame: bytes = b""


class End(Protocol):
    """Something that frames arrive at."""

    def drain(self) -> list[Arrival]:
        """Return what has arrived since the last time."""

    def close(self) -> None:
        """Close what this end has open."""


class Sender(End, Protocol):
    """An end that frames can be sent from as well."""

    def send(self, frame: bytes, header: bytes = b"") -> None:
        """Send one frame; `header` is a virtio-net header, where the end has such ones."""


def _arrival(frame: bytes) -> Arrival:
    return Arrival(frame[-TOKEN_BYTES:], parse_tags(frame)[0], describe(frame), frame)


class Wire:
    """A device of some namespace: all that goes over it, as it is on the wire."""

    def __init__(self, ifname: str, *, namespace: str = "") -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.bind((ifname, _ETH_P_ALL))

    def send(self, frame: bytes, header: bytes = b"") -> None:
        """Send one frame."""
        self._socket.send(frame)

    def drain(self) -> list[Arrival]:
        """Return what has arrived since the last time."""
        found: list[Arrival] = []
        while True:
            try:
                frame, ancillary, _, _ = self._socket.recvmsg(_FRAME_MAX, 64)
            except BlockingIOError:
                return found
            found.append(_arrival(_with_tag(frame, ancillary)))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _with_tag(frame: bytes, ancillary: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Put the outer tag back, which the kernel has taken off (man 7 packet, PACKET_AUXDATA)."""
    for level, kind, data in ancillary:
        if (level, kind) != (_SOL_PACKET, _PACKET_AUXDATA):
            continue
        status, _, _, _, _, control, tpid = _AUXDATA.unpack_from(data)
        if status & _VLAN_VALID:
            tpid = tpid if status & _VLAN_TPID_VALID else ETH_VLAN
            return frame[:12] + struct.pack("!HH", tpid, control) + frame[12:]
    return frame


class Guest:
    """A guest's side of its TAP: the very file descriptors that QEMU would have."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._descriptors = list(descriptors)
        size = bytearray(4)
        fcntl.ioctl(self._descriptors[0], _TUNGETVNETHDRSZ, size)
        (self._header_bytes,) = struct.unpack("=i", size)

    def send(self, frame: bytes, header: bytes = b"") -> None:
        """Send one frame, with a virtio-net header or one of zeros."""
        os.write(self._descriptors[0], header.ljust(self._header_bytes, b"\0") + frame)

    def drain(self) -> list[Arrival]:
        """Return what has arrived since the last time."""
        found: list[Arrival] = []
        for descriptor in self._descriptors:
            while True:
                try:
                    data = os.read(descriptor, _FRAME_MAX)
                except BlockingIOError:
                    break
                found.append(_arrival(data[self._header_bytes :]))
        return found

    def close(self) -> None:
        """Close the descriptors, as the end of QEMU does."""
        while self._descriptors:
            os.close(self._descriptors.pop())


class Node:
    """The node's own IP stack: a UDP socket on its address."""

    def __init__(self, address: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._socket.bind((address, port))

    def broadcast(self, address: str) -> None:
        """Let the node send something to everybody."""
        self._socket.sendto(b"from the node", (address, 9))

    def drain(self) -> list[Arrival]:
        """Return what has arrived since the last time."""
        found: list[Arrival] = []
        while True:
            try:
                data, peer = self._socket.recvfrom(_FRAME_MAX)
            except BlockingIOError:
                return found
            found.append(Arrival(data[-TOKEN_BYTES:], (), f"UDP from {peer}"))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
