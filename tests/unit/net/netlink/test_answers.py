import struct

from qemu_node.net.netlink.answers import (
    BridgeFacts,
    LinkFacts,
    PortVlans,
    bridge_facts,
    device_facts,
    link_facts,
    port_vlans,
)
from qemu_node.net.netlink.messages import attribute, nested

# include/uapi/linux/{rtnetlink,if_link,if_bridge}.h
IFNAME, MTU, MASTER, LINKINFO, KIND, DATA = 3, 4, 10, 18, 1, 2


def link(ifindex: int, *attributes: bytes, is_up: bool = True) -> bytes:
    return struct.pack("=BxHiII", 0, 0, ifindex, int(is_up), 0) + b"".join(attributes)


def info(kind: bytes, *data: bytes) -> bytes:
    return nested(LINKINFO, attribute(KIND, kind + b"\0"), nested(DATA, *data))


def vlan_message(ifindex: int, *entries: bytes) -> bytes:
    return struct.pack("=BxxxI", 7, ifindex) + b"".join(entries)


def vlan_entry(first: int, last: int | None = None, flags: int = 0) -> bytes:
    values = [attribute(1, struct.pack("=HH", flags, first))]
    if last is not None:
        values.append(attribute(2, struct.pack("=H", last)))
    return nested(1, *values)


def test_a_device_is_named_with_its_bridge_and_a_bond_with_the_nic_in_use() -> None:
    port = link(5, attribute(IFNAME, b"qn0\0"), attribute(MASTER, struct.pack("=I", 3)))
    bond = link(
        6,
        attribute(IFNAME, b"bond0\0"),
        info(b"bond", attribute(2, struct.pack("=I", 9))),
        is_up=False,
    )
    assert link_facts(port) == LinkFacts(ifname="qn0", ifindex=5, master=3, is_up=True)
    assert link_facts(bond) == LinkFacts(
        ifname="bond0", ifindex=6, master=0, is_up=False, active_port=9
    )


def test_a_bridge_is_told_from_another_device() -> None:
    mtu = attribute(MTU, struct.pack("=I", 9000))
    data = (attribute(7, b"\1"), attribute(23, b"\0"), attribute(39, struct.pack("=H", 1)))
    assert bridge_facts(link(3, mtu, info(b"bridge", *data))) == BridgeFacts(
        ifindex=3, is_bridge=True, vlan_filtering=True, default_pvid=1, mtu=9000
    )
    assert bridge_facts(link(4, mtu)) == BridgeFacts(ifindex=4, is_bridge=False)
    assert device_facts(link(4, mtu, info(b"ifb"))).kind == "ifb"


def test_vlans_of_a_port_are_single_ones_and_ranges_tagged_or_not() -> None:
    listing = [
        vlan_message(5, vlan_entry(30, flags=0x6)),
        vlan_message(6, vlan_entry(40, last=42), vlan_entry(99)),
        vlan_message(5, vlan_entry(31)),
    ]
    assert port_vlans(listing) == {
        5: PortVlans(vids=frozenset({30, 31}), untagged=frozenset({30})),
        6: PortVlans(vids=frozenset({40, 41, 42, 99}), untagged=frozenset()),
    }
