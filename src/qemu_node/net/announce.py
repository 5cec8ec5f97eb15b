"""Telling the switches where VMs are after the uplink has changed its NIC.

Owns the frames and sending them. Does not own noticing the change (`notices`). Calls block: use a
thread.

A bond that fails over announces the node's own addresses, but not those of its VMs. The switch
behind the new NIC takes a VM to be behind the old one until the VM sends a frame. Until then frames
to the VM are lost, for as long as switches remember addresses: five minutes.
"""

import socket
import struct
from collections.abc import Iterable

from qemu_node.net.errors import NetworkError
from qemu_node.net.portspec import PortSpec

_BROADCAST = b"\xff" * 6
_ETH_VLAN, _ETH_RARP = 0x8100, 0x8035
_ETHERNET, _IPV4, _REVERSE_REQUEST = 1, 0x0800, 3
_MIN_BYTES = 60


def frames(port: PortSpec, untagged: frozenset[int]) -> list[bytes]:
    """Return the frames that announce a port's address, one for each of its VLANs.

    They are RARP requests (RFC 903), as QEMU sends them after a migration: they change no ARP
    table, whatever addresses the VM has.

    Args:
        port: The port.
        untagged: The VLANs whose frames have no tag on the uplink.
    """
    mac = bytes.fromhex(port.mac.replace(":", ""))
    body = struct.pack("!HHBBH", _ETHERNET, _IPV4, 6, 4, _REVERSE_REQUEST) + (mac + bytes(4)) * 2
    body = struct.pack("!H", _ETH_RARP) + body
    tags = (b"" if vid in untagged else struct.pack("!HH", _ETH_VLAN, vid) for vid in port.vids)
    return [(_BROADCAST + mac + tag + body).ljust(_MIN_BYTES, b"\0") for tag in tags]


def announce(uplink: str, ports: Iterable[PortSpec], untagged: frozenset[int]) -> None:
    """Send the frames of all `ports` out of the uplink, to no other port of the bridge.

    Raises:
        NetworkError: the frames cannot be sent.
    """
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((uplink, 0))
            for port in ports:
                for frame in frames(port, untagged):
                    sock.send(frame)
    except OSError as exc:
        raise NetworkError(f"VMs not announced at {uplink}: {exc.strerror}") from exc
