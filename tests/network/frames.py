"""Ethernet frames as values, and the bytes of those that a guest should never get through.

Pure. Owns the formats; does not own who sends what (`matrix`) nor sockets (`wire`). Every frame
ends with a token after its payload, where no protocol looks: by it a receiver tells the frames of a
test from each other and from what the kernel says by itself.
"""

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

BROADCAST = "ff:ff:ff:ff:ff:ff"
LLDP_GROUP = "01:80:c2:00:00:0e"
"""Of the link-local groups, which no bridge forwards (IEEE 802.1Q-2018, 8.6.3)."""

ETH_IP, ETH_ARP, ETH_IP6, ETH_VLAN, ETH_QINQ = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8
ETH_LLDP, ETH_SLOW, ETH_EAPOL, ETH_PAUSE = 0x88CC, 0x8809, 0x888E, 0x8808
ETH_TEST = 0x88B5
"""For experiments (IEEE 802-2014, 9.2.3): no protocol of a kernel."""

TOKEN_BYTES = 8
_MIN_BYTES = 60
_ICMP6, _TCP, _UDP, _HOP_BY_HOP, _DESTINATION, _FRAGMENT = 58, 6, 17, 0, 60, 44
_RA, _NS, _NA = 134, 135, 136


@dataclass(frozen=True, slots=True)
class Tag:
    """One VLAN tag."""

    vid: int
    tpid: int = ETH_VLAN
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """A virtio-net header: what a guest leaves to others to do (virtio 1.2, 5.1.6)."""

    csum_start: int | None = None
    """A checksum from here to the end is to be written…"""
    csum_offset: int = 0
    """…so many bytes further on. Both count from a frame without tags."""
    gso_type: int = 0
    gso_size: int = 0
    hdr_len: int = 0

    def to_bytes(self, tag_bytes: int) -> bytes:
        """Return the header of a frame that has so many bytes of tags."""
        start = 0 if self.csum_start is None else self.csum_start + tag_bytes
        return struct.pack(
            "<BBHHHH", self.csum_start is not None, self.gso_type,
            self.hdr_len + tag_bytes * bool(self.hdr_len), self.gso_size, start, self.csum_offset,
        )  # fmt: skip


NO_OFFLOAD = Offload()
GSO_TCP4, GSO_UDP, GSO_TCP6, GSO_UDP_L4 = 1, 3, 4, 5
_FORGED_FROM = 20
"""The kernel takes no checksum that begins earlier (virtio_net_hdr_to_skb)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame; `ethertype` below 1536 is a length, as 802.2 frames have."""

    dst: str
    src: str
    ethertype: int
    payload: bytes = b""
    tags: tuple[Tag, ...] = ()
    is_padded: bool = True
    """It has the length that Ethernet wants."""
    offload: Offload = NO_OFFLOAD
    forged: int | None = None
    """The 16 bits that the checksum is to be, by 2 bytes just before the token."""

    def forging(self, at: int, value: int) -> Self:
        """Return this frame so that whoever finishes its checksum writes `value` at `at`.

        Where nobody does, it is this frame. An even place: that of a 16-bit word.
        """
        offload = Offload(csum_start=_FORGED_FROM, csum_offset=at - _FORGED_FROM)
        return replace(self, offload=offload, forged=value)

    @property
    def header(self) -> bytes:
        """The virtio-net header that goes before the frame, on a TAP."""
        return self.offload.to_bytes(4 * len(self.tags))

    def tagged(self, *tags: Tag | int) -> Self:
        """Return this frame with `tags`, the outer one first; a number is an 802.1Q tag."""
        return replace(self, tags=tuple(Tag(t) if isinstance(t, int) else t for t in tags))

    def to_bytes(self, token: bytes) -> bytes:
        """Return what goes over the wire, with `token` as its last bytes."""
        tags = b"".join(struct.pack("!HH", t.tpid, t.priority << 13 | t.vid) for t in self.tags)
        head = mac_bytes(self.dst) + mac_bytes(self.src) + tags
        frame = head + struct.pack("!H", self.ethertype) + self.payload
        if self.is_padded:
            frame = frame.ljust(_MIN_BYTES - TOKEN_BYTES, b"\0")
        if self.forged is not None:
            # The sum of all words, this one included, becomes the complement of what is wanted.
            frame = frame[:-2] + bytes(2)
            start = _FORGED_FROM + 4 * len(self.tags)
            rest = struct.pack("!H", ~checksum(frame[start:] + token) & 0xFFFF)
            missing = checksum(struct.pack("!H", self.forged) + rest)
            frame = frame[:-2] + struct.pack("!H", missing)
        return frame + token


def parse_tags(frame: bytes) -> tuple[tuple[Tag, ...], int]:
    """Return the tags of a received frame, the outer one first, and its ethertype."""
    tags: list[Tag] = []
    offset = 12
    while True:
        (ethertype,) = struct.unpack_from("!H", frame, offset)
        if ethertype not in (ETH_VLAN, ETH_QINQ):
            return tuple(tags), ethertype
        (control,) = struct.unpack_from("!H", frame, offset + 2)
        tags.append(Tag(control & 0xFFF, tpid=ethertype, priority=control >> 13))
        offset += 4


def mac_bytes(mac: str) -> bytes:
    """Return an address as 6 bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def short(src: str, ethertype: int, length: int) -> Frame:
    """Return a frame that ends after `length` bytes of its protocol, and those of the token."""
    return Frame(
        dst=BROADCAST, src=src, ethertype=ethertype, payload=bytes(length), is_padded=False
    )


def plain(src: str, dst: str = BROADCAST) -> Frame:
    """Return a frame of no protocol."""
    return Frame(dst=dst, src=src, ethertype=ETH_TEST)


def udp(src: str, source: str, target: str, *, dst: str, ports: tuple[int, int]) -> Frame:
    """Return a UDP datagram over IPv4; the token at its end is part of it."""
    body = b"\0" * 20
    length = 8 + len(body) + TOKEN_BYTES
    datagram = struct.pack("!HHHH", *ports, length, 0) + body
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, _UDP, 0) + addresses
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return Frame(dst=dst, src=src, ethertype=ETH_IP, payload=head + datagram)


def ipv4(
    src: str,
    source: str,
    body: bytes,
    *,
    fragment: int = 0,
    length: int | None = None,
    first_byte: int = 0x45,
) -> Frame:
    """Return an IPv4 packet of UDP to everybody.

    Args:
        src: The sender's MAC address.
        source: Its IP address.
        body: What follows the header.
        fragment: Flags and offset.
        length: What the header says of the whole; None: the truth.
        first_byte: Version and length of the header.
    """
    total = 20 + len(body) if length is None else length
    addresses = ipaddress.ip_address(source).packed + b"\xff" * 4
    head = struct.pack("!BBHHHBBH", first_byte, 0, total, 7, fragment, 64, _UDP, 0) + addresses
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return Frame(dst=BROADCAST, src=src, ethertype=ETH_IP, payload=head + body)


def udp_header(source: int, target: int) -> bytes:
    """Return the header of an empty UDP datagram without a checksum."""
    return struct.pack("!HHHH", source, target, 8, 0)


def tcp4(src: str, source: str, target: str, payload: bytes) -> Frame:
    """Return a segment of a TCP connection over IPv4, to everybody, its checksum unfinished."""
    length = 20 + len(payload) + TOKEN_BYTES
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    pseudo = checksum(addresses + struct.pack("!HH", _TCP, length))
    segment = struct.pack("!HHIIBBHHH", 80, 5000, 1, 1, 0x50, 0x10, 1000, ~pseudo & 0xFFFF, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, _TCP, 0) + addresses
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    offload = Offload(csum_start=34, csum_offset=16)
    return Frame(
        dst=BROADCAST, src=src, ethertype=ETH_IP, payload=head + segment + payload, offload=offload
    )


def tcp4_payload(frame: bytes) -> bytes:
    """Return what a received segment of `tcp4` carries; its checksums must be right."""
    tags, _ = parse_tags(frame)
    packet = frame[14 + 4 * len(tags) :]
    packet = packet[: int.from_bytes(packet[2:4])]
    pseudo = packet[12:20] + struct.pack("!HH", _TCP, len(packet) - 20)
    assert checksum(packet[:20]) == 0, "the IPv4 header's checksum is wrong"
    assert checksum(pseudo + packet[20:]) == 0, "the TCP checksum is wrong"
    return packet[40:]


def dhcp_offer(src: str, source: str) -> Frame:
    """Return what a DHCP server sends to everybody."""
    return udp(src, source, "255.255.255.255", dst=BROADCAST, ports=(67, 68))


def dhcp_discover(src: str) -> Frame:
    """Return what a DHCP client without an address sends."""
    return udp(src, "0.0.0.0", "255.255.255.255", dst=BROADCAST, ports=(68, 67))


def arp(
    src: str,
    sender_mac: str,
    sender: str,
    target: str,
    *,
    dst: str = BROADCAST,
    hardware: int = 1,
) -> Frame:
    """Return an ARP request that says `sender` is at `sender_mac`."""
    payload = struct.pack("!HHBBH", hardware, ETH_IP, 6, 4, 1)
    payload += mac_bytes(sender_mac) + ipaddress.ip_address(sender).packed
    payload += b"\0" * 6 + ipaddress.ip_address(target).packed
    return Frame(dst=dst, src=src, ethertype=ETH_ARP, payload=payload)


def ipv6(
    src: str,
    source: str,
    target: str,
    *,
    next_header: int,
    body: bytes,
    dst: str = BROADCAST,
    padding: bytes = b"",
) -> Frame:
    """Return an IPv6 packet whose length counts neither padding nor the token."""
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    head = struct.pack("!IHBB", 6 << 28, len(body), next_header, 255) + addresses
    return Frame(dst=dst, src=src, ethertype=ETH_IP6, payload=head + body + padding)


def udp6(
    src: str, source: str, target: str, *, ports: tuple[int, int], dst: str = "33:33:00:01:00:02"
) -> Frame:
    """Return a UDP datagram over IPv6 to a group."""
    body = struct.pack("!HHHH", *ports, 8, 0)
    return ipv6(src, source, target, next_header=_UDP, body=body, dst=dst)


def tcp6(src: str, source: str, target: str, *, ports: tuple[int, int]) -> Frame:
    """Return the first segment of a TCP connection over IPv6, to everybody."""
    body = struct.pack("!HHIIHHHH", *ports, 1, 0, 0x5002, 1000, 0, 0)
    return ipv6(src, source, target, next_header=_TCP, body=body, dst=BROADCAST)


def neighbour_advertisement(src: str, target: str, lladdr: str) -> Frame:
    """Return an NA to all nodes that says `target` is at `lladdr`."""
    body = struct.pack("!BBHI", _NA, 0, 0, 0x20000000)
    body += ipaddress.ip_address(target).packed + b"\2\1" + mac_bytes(lladdr)
    return _icmp6(src, target, body)


def extension(next_header: int, *, words: int = 0) -> bytes:
    """Return destination options of 8 bytes that say to have `words` more of 8 bytes."""
    return bytes((next_header, words)) + b"\1\4\0\0\0\0"


def fragment6(next_header: int, offset: int, *, more: bool) -> bytes:
    """Return the header of an IPv6 fragment; `offset` in bytes."""
    return struct.pack("!BBHI", next_header, 0, offset | more, 9)


def duplicate_probe(src: str, target: str) -> Frame:
    """Return an NS that asks from no address whether anybody has `target`."""
    body = struct.pack("!BBHI", _NS, 0, 0, 0) + ipaddress.ip_address(target).packed
    return _icmp6(src, "::", body)


def mld_report(src: str, source: str) -> Frame:
    """Return what a host says of the groups that it listens to."""
    options = bytes((_ICMP6, 0)) + b"\5\2\0\0\1\0"
    return _icmp6(src, source, struct.pack("!BBHHH", 143, 0, 0, 0, 0), (_HOP_BY_HOP, options))


def echo6(src: str, source: str) -> Frame:
    """Return a ping to all nodes, as long as an RA."""
    return _icmp6(src, source, struct.pack("!BBHHH", 128, 0, 0, 1, 1) + bytes(16))


def neighbour_solicitation(src: str, source: str, *lladdrs: str) -> Frame:
    """Return an NS that says its sender `source` is at `lladdrs`, with an option for each."""
    body = struct.pack("!BBHI", _NS, 0, 0, 0) + ipaddress.ip_address("fe80::1").packed
    body += b"".join(b"\1\1" + mac_bytes(lladdr) for lladdr in lladdrs)
    return _icmp6(src, source, body)


def router_advertisement(src: str, source: str, *, hidden_by: str = "") -> Frame:
    """Return an RA; `hidden_by` names what stands between it and the IPv6 header."""
    body = struct.pack("!BBHBBHII", _RA, 0, 0, 64, 0, 1800, 0, 0)
    options = b"\1\4\0\0\0\0"  # PadN: 8 bytes together with next header and length
    first = {
        "": (_ICMP6, b""),
        "hop-by-hop": (_HOP_BY_HOP, bytes((_ICMP6, 0)) + options),
        "destination options": (_DESTINATION, bytes((_ICMP6, 0)) + options),
        # An atomic fragment: offset 0, no more to come.
        "fragment": (_FRAGMENT, bytes((_ICMP6, 0)) + struct.pack("!HI", 0, 7)),
    }[hidden_by]
    return _icmp6(src, source, body, before=first)


def ra_in_two_fragments(src: str, source: str) -> tuple[Frame, Frame]:
    """Return an RA whose ICMPv6 header is in the second fragment, behind destination options."""
    options = bytes((_ICMP6, 1)) + b"\1\14" + b"\0" * 12
    rest = struct.pack("!BBHBBHII", _RA, 0, 0, 64, 0, 1800, 0, 0)
    group = "33:33:00:00:00:01"
    pieces = []
    for offset, more, part in ((0, 1, options), (len(options), 0, rest)):
        fragment = bytes((_DESTINATION, 0)) + struct.pack("!HI", offset | more, 9)
        pieces.append(
            ipv6(src, source, "ff02::1", next_header=_FRAGMENT, body=fragment + part, dst=group)
        )
    return pieces[0], pieces[1]


def _icmp6(src: str, source: str, body: bytes, before: tuple[int, bytes] = (_ICMP6, b"")) -> Frame:
    """Return an ICMPv6 message to all nodes, behind an extension header or none."""
    pseudo = ipaddress.ip_address(source).packed + ipaddress.ip_address("ff02::1").packed
    pseudo += struct.pack("!II", len(body), _ICMP6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    next_header, header = before
    return ipv6(
        src, source, "ff02::1",
        next_header=next_header, body=header + body, dst="33:33:00:00:00:01",
    )  # fmt: skip


def bpdu(src: str) -> Frame:
    """Return a spanning tree BPDU that claims to be the best root."""
    body = b"\x42\x42\x03" + bytes(35)
    return Frame(dst="01:80:c2:00:00:00", src=src, ethertype=len(body), payload=body)


def pvst(src: str) -> Frame:
    """Return a BPDU of Cisco's per-VLAN spanning tree (SNAP, 01:00:0c:cc:cc:cd)."""
    body = b"\xaa\xaa\x03\x00\x00\x0c\x01\x0b" + bytes(42)
    return Frame(dst="01:00:0c:cc:cc:cd", src=src, ethertype=len(body), payload=body)


def cdp(src: str) -> Frame:
    """Return a frame of Cisco's discovery protocol (SNAP, 01:00:0c:cc:cc:cc)."""
    body = b"\xaa\xaa\x03\x00\x00\x0c\x20\x00" + bytes(30)
    return Frame(dst="01:00:0c:cc:cc:cc", src=src, ethertype=len(body), payload=body)


def in_snap(frame: Frame) -> Frame:
    """Return what `frame` says in an 802.2 frame (RFC 1042), which some hosts take as well."""
    body = b"\xaa\xaa\x03\0\0\0" + struct.pack("!H", frame.ethertype) + frame.payload
    return replace(frame, ethertype=len(body), payload=body)


def to_group(src: str, last: int, ethertype: int) -> Frame:
    """Return a frame of `ethertype` to the link-local group 01:80:c2:00:00:`last`."""
    return Frame(dst=f"01:80:c2:00:00:{last:02x}", src=src, ethertype=ethertype, payload=b"\1\1")


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def describe(frame: bytes) -> str:
    """Return a received frame in a few words, for the message of a failed test."""
    tags, ethertype = parse_tags(frame)
    shown = "".join(f" [{tag.vid}{'s' if tag.tpid == ETH_QINQ else ''}]" for tag in tags)
    return (
        f"{frame[6:12].hex(':')} > {frame[:6].hex(':')}{shown} {ethertype:#06x} {len(frame)} bytes"
    )


def vids(tags: Sequence[Tag]) -> tuple[int, ...]:
    """Return the numbers of `tags`."""
    return tuple(tag.vid for tag in tags)
