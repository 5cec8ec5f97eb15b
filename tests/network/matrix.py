"""Every way out of a VLAN that a guest may try, as a table: what it sends, where it must arrive.

Pure. Owns the guests of the table and its rows. Does not own sending (`lab`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from network import frames
from network.frames import (
    BROADCAST,
    ETH_ARP,
    ETH_EAPOL,
    ETH_IP,
    ETH_IP6,
    ETH_LLDP,
    ETH_PAUSE,
    ETH_QINQ,
    ETH_SLOW,
    ETH_TEST,
    Frame,
    Offload,
    Tag,
)
from network.lab import NODE_IP, NODE_MAC, NODE_PORT, OUTSIDE_MAC, port_spec

from qemu_node.net.filter.ruleset import Reason
from qemu_node.net.portspec import PortSpec

PINNED_NET, PINNED_NET6 = "10.30.0.0/29", "2001:db8:30::/64"
GUESTS: Mapping[str, PortSpec] = {
    spec.vm_id: spec
    for spec in (
        port_spec("a1", 0xA1, vlan=30),
        port_spec("a2", 0xA2, vlan=30),
        port_spec("i1", 0x11, vlan=30, isolated=True),
        port_spec("i2", 0x12, vlan=30, isolated=True),
        port_spec("p1", 0xF1, vlan=30, addresses=(PINNED_NET, PINNED_NET6)),
        port_spec("b1", 0xB1, vlan=40),
        port_spec("t1", 0xC1, vlan=None, trunk=(30, 40, 50)),
        port_spec("p2", 0xF2, vlan=None, trunk=(30,), addresses=(PINNED_NET, PINNED_NET6)),
        port_spec("p4", 0xF4, vlan=30, addresses=(PINNED_NET,)),
        port_spec("p6", 0xF6, vlan=30, addresses=(PINNED_NET6,)),
    )
}
MAC = {name: spec.mac for name, spec in GUESTS.items()}
LINK_LOCAL = {name: f"fe80::{number:x}" for number, name in enumerate(GUESTS, start=1)}
SERVICE_TAG = Tag(40, tpid=ETH_QINQ)
OUT = "10.30.0.200"
"""An address that the pinned guests may not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What `sender` sends; where it arrives, with which tags; what its drop counter says."""

    name: str
    sender: str
    frame: Frame
    reaches: Mapping[str, tuple[int, ...]]
    reason: Reason | None = None


def members(vid: int, *, but: str = "") -> dict[str, tuple[int, ...]]:
    """Return who gets what `but` sends to all of a VLAN: untagged, but for trunks and outside."""
    isolated = {name for name, spec in GUESTS.items() if spec.isolated}
    found: dict[str, tuple[int, ...]] = {
        name: () if spec.vlan else (vid,) for name, spec in GUESTS.items() if vid in spec.vids
    }
    found["uplink"] = (vid,)
    silent = {but} | (isolated if but in isolated else set())
    return {name: tags for name, tags in found.items() if name not in silent}


def rows() -> Iterator[Row]:
    """Yield the whole table."""
    yield from _own_vlan()
    yield from _no_way_in()
    yield from _tags()
    yield from _node()
    yield from _between_switches()
    yield from _lies()
    yield from _truths_of_pinned_guests()
    yield from _lies_of_pinned_guests()
    yield from _of_the_other_family()
    yield from _cannot_be_seen()


def _passes(name: str, sender: str, frame: Frame, vid: int) -> Row:
    return Row(name=name, sender=sender, frame=frame, reaches=members(vid, but=sender))


def _dropped(name: str, sender: str, frame: Frame, reason: Reason | None = None) -> Row:
    return Row(name=name, sender=sender, frame=frame, reaches={}, reason=reason)


def _own_vlan() -> Iterator[Row]:
    """The VLANs that each end has: exactly their members, both ways."""
    for name, spec in GUESTS.items():
        if spec.vlan:
            yield _passes("reaches its VLAN", name, frames.plain(spec.mac), spec.vlan)
    for vid in GUESTS["t1"].trunk:
        yield _passes(f"tag {vid}", "t1", frames.plain(MAC["t1"]).tagged(vid), vid)
        yield _passes(f"tag {vid}", "uplink", frames.plain(OUTSIDE_MAC).tagged(vid), vid)
    yield _passes("ARP", "a1", frames.arp(MAC["a1"], MAC["a1"], "10.30.0.1", "10.30.0.2"), 30)
    for name, tags in (("a1", ()), ("t1", (40,))):
        own = frames.neighbour_advertisement(MAC[name], LINK_LOCAL[name], MAC[name])
        yield _passes("its own NA", name, own.tagged(*tags), *(tags or (30,)))
        own = frames.neighbour_solicitation(MAC[name], LINK_LOCAL[name], MAC[name])
        yield _passes("its own NS", name, own.tagged(*tags), *(tags or (30,)))
    packet = frames.udp6(MAC["a1"], "2001:db8:66::9", "ff02::1:2", ports=(546, 547))
    yield _passes("IPv6 of a guest without pinned addresses", "a1", packet, 30)
    for port in (67, 547):
        packet = frames.tcp6(MAC["a1"], LINK_LOCAL["a1"], "2001:db8::1", ports=(port, 80))
        yield _passes(f"TCP from port {port}", "a1", packet, 30)


def _no_way_in() -> Iterator[Row]:
    """VLANs that an end does not have. The bridge drops these frames, so no rule counts them."""
    for vid in (1, 60, 99, 4094, 4095):
        yield _dropped(f"tag {vid}", "t1", frames.plain(MAC["t1"]).tagged(vid))
    yield _dropped("untagged", "t1", frames.plain(MAC["t1"]))
    yield _dropped("priority tag", "t1", frames.plain(MAC["t1"]).tagged(Tag(0, priority=5)))
    for vid in (1, 60, 4095):
        yield _dropped(f"tag {vid}", "uplink", frames.plain(OUTSIDE_MAC).tagged(vid))
    # The node's own VLAN: nobody but the node, and that only for its address.
    for frame in (frames.plain(OUTSIDE_MAC), frames.plain(OUTSIDE_MAC).tagged(4094)):
        yield _dropped(f"own VLAN of the node, {len(frame.tags)} tags", "uplink", frame)


def _tags() -> Iterator[Row]:
    """Tags where there must be none, and tags in tags."""
    for name, tags in (
        ("own", (30,)),
        ("other", (40,)),
        ("1", (1,)),
        ("99", (99,)),
        ("4095", (4095,)),
        ("priority", (0,)),
        ("priority and other", (0, 40)),
        ("own and other", (30, 40)),
        ("other and own", (40, 30)),
        ("own and node's", (30, 4094)),
        ("three", (30, 30, 40)),
        ("802.1ad", (SERVICE_TAG,)),
        ("802.1ad and 99", (SERVICE_TAG, 99)),
        ("old service tag", (Tag(40, tpid=0x9100),)),
    ):
        yield _dropped(f"tag: {name}", "a1", frames.plain(MAC["a1"]).tagged(*tags), Reason.TAG)
    for name, more in (
        ("30 and 40", (30, 40)),
        ("priority and 40", (0, 40)),
        ("30 and 99", (30, 99)),
        ("802.1ad 30", (Tag(30, tpid=ETH_QINQ),)),
        ("30 and 802.1ad", (30, SERVICE_TAG)),
    ):
        yield _dropped(f"tags: {name}", "t1", frames.plain(MAC["t1"]).tagged(*more), Reason.TAG)


def _node() -> Iterator[Row]:
    """The node's own stack: no frame of a guest gets there."""

    def to_node(src: str, dst: str) -> Frame:
        return frames.udp(src, "10.99.0.77", NODE_IP, dst=dst, ports=(7, NODE_PORT))

    yield Row(
        name="node's address, as a control",
        sender="uplink",
        frame=to_node(OUTSIDE_MAC, NODE_MAC),
        reaches={"node": ()},
    )
    # In a guest's VLAN the node's address is unknown, and unknown ones go outside only.
    yield Row(
        name="IPv4 to the node's MAC",
        sender="a1",
        frame=to_node(MAC["a1"], NODE_MAC),
        reaches={"uplink": (30,)},
    )
    yield _passes("IPv4 to the node by broadcast", "a1", to_node(MAC["a1"], frames.BROADCAST), 30)
    ask = frames.arp(MAC["a1"], MAC["a1"], "10.99.0.77", NODE_IP)
    yield _passes("ARP for the node", "a1", ask, 30)
    for last in (0x00, 0x02, 0x03, 0x0D, 0x0E, 0x0F):
        group = f"01:80:c2:00:00:{last:02x}"
        for name in ("a1", "t1"):
            packet = to_node(MAC[name], group)
            yield _dropped(f"IPv4 to group {last:02x}", name, packet, Reason.LINK)
            ask = frames.arp(MAC[name], MAC[name], "10.99.0.77", NODE_IP, dst=group)
            yield _dropped(f"ARP to group {last:02x}", name, ask, Reason.LINK)
            packet = frames.udp6(MAC[name], LINK_LOCAL[name], "ff02::1", dst=group, ports=(5, 6))
            yield _dropped(f"IPv6 to group {last:02x}", name, packet, Reason.LINK)
        tagged = to_node(MAC["t1"], group).tagged(30)
        yield _dropped(f"IPv4 to group {last:02x} tagged", "t1", tagged, Reason.LINK)


def _between_switches() -> Iterator[Row]:
    """Protocols of switches."""
    for name, tags in (("a1", ()), ("t1", (30,))):
        how = " tagged" if tags else ""
        for what, frame in (
            ("BPDU", frames.bpdu(MAC[name])),
            ("PVST", frames.pvst(MAC[name])),
            ("CDP", frames.cdp(MAC[name])),
            ("LACP", frames.to_group(MAC[name], 0x02, ETH_SLOW)),
            ("EAPOL", frames.to_group(MAC[name], 0x03, ETH_EAPOL)),
            ("LLDP", frames.to_group(MAC[name], 0x0E, ETH_LLDP)),
            ("LLDP of the nearest customer", frames.to_group(MAC[name], 0x00, ETH_LLDP)),
            ("group 0f", frames.to_group(MAC[name], 0x0F, ETH_TEST)),
            ("MVRP", frames.to_group(MAC[name], 0x21, 0x88F5)),
        ):
            yield _dropped(what + how, name, frame.tagged(*tags), Reason.LINK)
    # The bridge itself drops these before any rule sees them.
    yield _dropped("PAUSE", "a1", frames.to_group(MAC["a1"], 0x01, ETH_PAUSE))
    yield _dropped("a multicast source", "a1", frames.plain("03:00:00:00:00:a1"))
    yield _dropped("no source", "a1", frames.plain("00:00:00:00:00:00"))


def _lies() -> Iterator[Row]:
    """Somebody else's address, and what only servers and routers say."""
    for what, mac in (
        ("another guest's MAC", MAC["a2"]),
        ("the node's MAC", NODE_MAC),
        ("a MAC of nobody", "02:00:00:00:ff:ff"),
    ):
        yield _dropped(what, "a1", frames.plain(mac), Reason.MAC)
        yield _dropped(f"{what} tagged", "t1", frames.plain(mac).tagged(30), Reason.MAC)
    for name, tags in (("a1", ()), ("t1", (30,))):
        mac, local, other = MAC[name], LINK_LOCAL[name], MAC["a2"]
        how = " tagged" if tags else ""
        for what, frame, reason in (
            ("ARP sender", frames.arp(mac, other, "10.30.0.1", "10.30.0.2"), Reason.ARP),
            (
                "ARP of IEEE 802 hardware",
                frames.arp(mac, other, "10.30.0.1", "10.30.0.2", hardware=6),
                Reason.ARP,
            ),
            (
                "ARP in SNAP",
                frames.in_snap(frames.arp(mac, other, "10.30.0.1", "10.30.0.2")),
                Reason.LINK,
            ),
            ("RA in SNAP", frames.in_snap(frames.router_advertisement(mac, local)), Reason.LINK),
            ("NS, second option", frames.neighbour_solicitation(mac, local, mac, other), Reason.ND),
            ("NA lladdr", frames.neighbour_advertisement(mac, local, other), Reason.ND),
            ("NS lladdr", frames.neighbour_solicitation(mac, local, other), Reason.ND),
            ("DHCP offer", frames.dhcp_offer(mac, "10.30.0.1"), Reason.DHCP),
            (
                "DHCP offer from another port",
                frames.udp(mac, "10.30.0.1", "255.255.255.255", dst=BROADCAST, ports=(1067, 68)),
                Reason.DHCP,
            ),
            ("DHCPv6 server", frames.udp6(mac, local, "ff02::1:2", ports=(547, 546)), Reason.DHCP),
            (
                "DHCPv6 server on another port",
                frames.udp6(mac, local, "ff02::1:2", ports=(1547, 546)),
                Reason.DHCP,
            ),
            ("RA", frames.router_advertisement(mac, local), Reason.RA),
        ):
            yield _dropped(what + how, name, frame.tagged(*tags), reason)
        for hidden_by in ("hop-by-hop", "destination options"):
            frame = frames.router_advertisement(mac, local, hidden_by=hidden_by).tagged(*tags)
            yield _dropped(f"RA behind {hidden_by}{how}", name, frame, Reason.RA)
        frame = frames.router_advertisement(mac, local, hidden_by="fragment").tagged(*tags)
        yield _dropped(f"RA as a fragment{how}", name, frame, Reason.ND)
        first, _ = frames.ra_in_two_fragments(mac, local)
        yield _dropped(f"RA, first of two fragments{how}", name, first.tagged(*tags), Reason.ND)


_PINNED: Iterable[tuple[str, tuple[int, ...]]] = (("p1", ()), ("p2", (30,)))
"""The pinned guests and the tags of their frames."""


def _truths_of_pinned_guests() -> Iterator[Row]:
    """Addresses that the policy lets them have, and what a host sends before it has one."""
    address6 = "2001:db8:30::9"
    for name, tags in _PINNED:
        mac = MAC[name]
        for what, frame in (
            ("DHCP client", frames.dhcp_discover(mac)),
            ("probe for a duplicate", frames.duplicate_probe(mac, address6)),
            ("MLD report without an address", frames.mld_report(mac, "::")),
            ("ARP probe", frames.arp(mac, mac, "0.0.0.0", "10.30.0.2")),
            ("ARP of an address it may have", frames.arp(mac, mac, "10.30.0.1", "10.30.0.2")),
            ("its own NA", frames.neighbour_advertisement(mac, address6, mac)),
            ("its own NS", frames.neighbour_solicitation(mac, address6, mac)),
            (
                "IPv4 from an address it may have",
                frames.udp(mac, "10.30.0.1", "224.0.0.99", dst="01:00:5e:00:00:63", ports=(5, 6)),
            ),
            (
                "IPv6 from an address it may have",
                frames.udp6(mac, address6, "ff02::1:2", ports=(546, 547)),
            ),
        ):
            yield _passes(what, name, frame.tagged(*tags), 30)


def _lies_of_pinned_guests() -> Iterator[Row]:
    """Addresses that the policy does not let them have, and what nobody may say."""
    foreign6 = "2001:db8:66::9"
    for name, tags in _PINNED:
        mac = MAC[name]
        for what, frame, reason in (
            (
                "IPv4 from a foreign address",
                frames.udp(mac, OUT, "255.255.255.255", dst=frames.BROADCAST, ports=(5, 6)),
                Reason.IP,
            ),
            (
                "probe for a duplicate of a foreign address",
                frames.duplicate_probe(mac, foreign6),
                Reason.ND,
            ),
            (
                "UDP over IPv6 without an address",
                frames.udp6(mac, "::", "ff02::1:2", ports=(546, 547)),
                Reason.IP,
            ),
            (
                "UDP over IPv4 without an address",
                frames.udp(mac, "0.0.0.0", "255.255.255.255", dst=BROADCAST, ports=(5, 6)),
                Reason.IP,
            ),
            (
                "IPv6 from a foreign address",
                frames.udp6(mac, foreign6, "ff02::1:2", ports=(546, 547)),
                Reason.IP,
            ),
            ("ARP of a foreign address", frames.arp(mac, mac, OUT, "10.30.0.2"), Reason.ARP),
            (
                "NA of a foreign address",
                frames.neighbour_advertisement(mac, foreign6, mac),
                Reason.ND,
            ),
            ("ARP sender", frames.arp(mac, MAC["a2"], "10.30.0.1", "10.30.0.2"), Reason.ARP),
            ("DHCP offer", frames.dhcp_offer(mac, "10.30.0.1"), Reason.DHCP),
            ("RA", frames.router_advertisement(mac, LINK_LOCAL[name]), Reason.RA),
        ):
            yield _dropped(what, name, frame.tagged(*tags), reason)


def _of_the_other_family() -> Iterator[Row]:
    """What guests send that have addresses of one family only: nothing of the other one."""
    four, six = MAC["p4"], MAC["p6"]
    yield _passes("ARP probe", "p4", frames.arp(four, four, "0.0.0.0", "10.30.0.2"), 30)
    yield _passes("probe for a duplicate", "p6", frames.duplicate_probe(six, "fe80::6"), 30)
    for name, what, frame, reason in (
        ("p4", "probe for a duplicate", frames.duplicate_probe(four, "fe80::4"), Reason.ND),
        ("p4", "MLD report without an address", frames.mld_report(four, "::"), Reason.IP),
        ("p4", "MLD report", frames.mld_report(four, "fe80::4"), Reason.IP),
        ("p4", "UDP over IPv6", frames.udp6(four, "::", "ff02::1:2", ports=(5, 6)), Reason.IP),
        ("p6", "ARP probe", frames.arp(six, six, "0.0.0.0", "10.30.0.2"), Reason.ARP),
        ("p6", "DHCP client", frames.dhcp_discover(six), Reason.IP),
    ):
        yield _dropped(what, name, frame, reason)


def _cannot_be_seen() -> Iterator[Row]:
    """Frames that lack what a rule asks for: short ones, fragments, headers before others."""
    more = 0x2000
    for name, tags in (("a1", ()), ("t1", (30,)), *_PINNED):
        mac, source = MAC[name], "10.30.0.1"
        udp = frames.udp_header(5, 6)
        offer, offer6 = frames.udp_header(67, 68), frames.udp_header(547, 546)

        def over6(kind: int, body: bytes, padding: bytes = b"", mac: str = mac) -> Frame:
            return frames.ipv6(
                mac, "2001:db8:30::9", "ff02::1", next_header=kind, body=body, padding=padding
            )

        first = frames.fragment6(60, 0, more=True)
        for what, frame, reason in (
            ("no byte of ARP", frames.short(mac, ETH_ARP, 0), Reason.ARP),
            ("half of ARP", frames.short(mac, ETH_ARP, 7), Reason.ARP),
            ("no byte of IPv4", frames.short(mac, ETH_IP, 0), Reason.IP),
            ("half a header of IPv4", frames.short(mac, ETH_IP, 3), Reason.IP),
            ("no byte of IPv6", frames.short(mac, ETH_IP6, 0), Reason.IP),
            ("half a header of IPv6", frames.short(mac, ETH_IP6, 20), Reason.IP),
            ("IPv4 of 16 bytes", frames.ipv4(mac, source, offer, first_byte=0x44), Reason.IP),
            ("IPv4 of version 6", frames.ipv4(mac, source, offer, first_byte=0x65), Reason.IP),
            ("IPv4 that goes on", frames.ipv4(mac, source, offer, length=900), Reason.IP),
            ("DHCP, first fragment", frames.ipv4(mac, source, offer, fragment=more), Reason.DHCP),
            ("DHCPv6 behind options", over6(60, frames.extension(17) + offer6), Reason.DHCP),
            ("options without an end", over6(60, frames.extension(17, words=9)), Reason.IP),
            (
                "RA behind options that end in the next fragment",
                over6(44, first + frames.extension(58, words=9)),
                Reason.IP,
            ),
            (
                "DHCPv6, ports in the next fragment",
                over6(44, first + frames.extension(17)),
                Reason.IP,
            ),
            (
                "first fragment, the rest of its headers in the padding",
                over6(44, first + frames.extension(60), frames.extension(6) + bytes(20)),
                Reason.IP,
            ),
            (
                "options, next fragment",
                over6(44, frames.fragment6(60, 8, more=False) + offer6),
                Reason.IP,
            ),
            (
                "DHCPv6, first fragment",
                over6(44, frames.fragment6(17, 0, more=True) + offer6),
                Reason.DHCP,
            ),
        ):  # fmt: skip
            yield _dropped(what, name, frame.tagged(*tags), reason)
        for what, frame in (
            ("UDP, first fragment", frames.ipv4(mac, source, udp, fragment=more)),
            ("UDP, next fragment", frames.ipv4(mac, source, offer, fragment=1)),
            (
                "UDP over IPv6, first fragment",
                over6(44, frames.fragment6(17, 0, more=True) + udp),
            ),
            (
                "UDP over IPv6, next fragment",
                over6(44, frames.fragment6(17, 8, more=False) + offer6),
            ),
            ("UDP behind options", over6(60, frames.extension(17) + udp)),
        ):
            yield _passes(what, name, frame.tagged(*tags), 30)


def forgeries() -> Iterator[Row]:
    """What becomes a lie when somebody writes the checksum that the guest has left to others."""
    for name, tags in (("a1", ()), ("t1", (30,)), *_PINNED):
        mac = MAC[name]
        for what, frame, at, value, reason in (
            (
                "ARP sender",
                frames.arp(mac, mac, "10.30.0.1", "10.30.0.2"),
                26,
                0xFF00 | 0xA2,
                Reason.ARP,
            ),
            ("DHCP server", _to_all(mac, (5, 6)), 34, 67, Reason.DHCP),
            ("DHCP client", _to_all(mac, (5, 6)), 36, 68, Reason.DHCP),
            ("RA", frames.echo6(mac, "2001:db8:30::9"), 54, 0x8600, Reason.RA),
        ):
            yield _dropped(what, name, frame.tagged(*tags).forging(at, value), reason)
    for name, tags in _PINNED:
        mac = MAC[name]
        for what, frame, at, reason in (
            ("IPv4 source", _to_all(mac, (5, 6)), 28, Reason.IP),
            ("ARP address", frames.arp(mac, mac, "10.30.0.1", "10.30.0.2"), 30, Reason.ARP),
        ):
            yield _dropped(what, name, frame.tagged(*tags).forging(at, 200), reason)


def large_segments() -> Iterator[Row]:
    """What would be several frames, in one: it is looked at as a whole, or each of them is."""
    cut = Offload(csum_start=34, csum_offset=16, gso_type=frames.GSO_TCP4, gso_size=50, hdr_len=54)
    for name, tags in _PINNED:
        frame = frames.tcp4(MAC[name], OUT, "10.30.0.2", bytes(200))
        frame = replace(frame, offload=cut).tagged(*tags)
        yield _dropped("TCP from a foreign address", name, frame, Reason.IP)
    cut = Offload(csum_start=34, csum_offset=6, gso_type=frames.GSO_UDP_L4, gso_size=8, hdr_len=42)
    for name, tags in (("a1", ()), ("t1", (30,)), *_PINNED):
        frame = replace(frames.dhcp_offer(MAC[name], "10.30.0.1"), offload=cut).tagged(*tags)
        yield _dropped("DHCP offers", name, frame, Reason.DHCP)


def _to_all(mac: str, ports: tuple[int, int]) -> Frame:
    return frames.udp(mac, "10.30.0.1", "255.255.255.255", dst=BROADCAST, ports=ports)
