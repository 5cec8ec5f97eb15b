"""The nftables table that keeps guests from lying: its text. Pure.

Owns every rule, the sets and the reasons for a drop. Does not own what is in the sets (`elements`)
nor loading it (`nft`).

The table fails closed: a TAP (`qn*`) without elements gets nothing through. It has no rule per VM:
what differs is in sets keyed by the TAP, so that a port is one small transaction, and the way of a
frame is as long with 200 VMs as with one. All other ports of the bridge are none of its business.

What is done for every frame is what filtering costs. So one lookup, by TAP, source address and
ethertype, says that the sender is right and which chain checks the frame; what kind of port it is,
is in the choice of the chain. Two comparisons are left for IPv4, three for IPv6.

Traps that shape the rules, each seen with nft 1.1.3 on Linux 6.12:
- In the bridge family the dependencies that nft itself adds to `arp …` and `icmpv6 …` read the
  ethertype from the link header and miss every tagged frame. `meta protocol` and raw payload
  (`@nh`, `@th`) see both.
- `ether type` is that of the outer tag, although the kernel has stripped it; `meta protocol` that
  of the inner frame.
- Set and chain names must be none of nft's keywords, and those are many.
"""

from collections.abc import Mapping
from enum import StrEnum

from qemu_node.net.portspec import TAP_PREFIX

FAMILY = "bridge"
TABLE = "qn"

PRIORITY = -250
"""Before ebtables' and the bridge's own conntrack (-200, include/uapi/linux/netfilter_bridge.h)."""


class Reason(StrEnum):
    """Why a frame of a guest was dropped; the value is the counter's name."""

    MAC = "mac"
    """Its source address is not the NIC's."""
    ARP = "arp"
    """An ARP sender that is not the NIC, or an address it may not have, or no ARP of IPv4."""
    ND = "nd"
    """The same for IPv6 neighbor discovery, or ICMPv6 that cannot be seen whole."""
    DHCP = "dhcp"
    """It answers as a DHCP server, or its UDP ports cannot be seen."""
    RA = "ra"
    """A router advertisement or a redirect."""
    IP = "ip"
    """A source address outside of the policy's `addresses`, or no header of IP."""
    TAG = "tag"
    """A VLAN tag where there must be none, or a second one."""
    LINK = "link"
    """A protocol between switches: STP, LACP, LLDP, CDP, PVST, GVRP, or any LLC frame."""


# What each port sends: TAP . source address and ethertype → the chain that checks such frames. Both
# in one piece of raw payload are one load for the kernel instead of two. A chain that gets another
# meaning or name needs another map: a new driver's rules meet the elements of the one before.
MAP_FRAMES = "frames"
# Sets with a value: source addresses, and networks for ports with `addresses`. They are keyed by
# raw payload where nft would not know its type. `nd_v6` is `src_v6` for what ND says.
SET_RAW = "src_raw"
SET_SRC4, SET_SRC6, SET_ND6 = "src_v4", "src_v6", "nd_v6"

_SETS = f"""
  set {SET_RAW} {{ typeof iifname . @th,208,48; }}
  set {SET_SRC4} {{ typeof iifname . ip saddr; flags interval; }}
  set {SET_SRC6} {{ typeof iifname . ip6 saddr; flags interval; }}
  set {SET_ND6} {{ typeof iifname . @th,64,128; flags interval; }}
"""
_MAP = f"""
  map {MAP_FRAMES} {{ typeof iifname . @ll,48,64 : verdict; }}
"""

# The tags of the IEEE and those that vendors used before there was 802.1ad.
_TAGS = "{ 8021q, 8021ad, 0x9100, 0x9200, 0x9300 }"

# 01:80:c2:00:00:xx are the groups of IEEE 802.1 (bridges, LACP, LLDP, MVRP), 01:00:0c:xx:xx:xx
# those of Cisco's protocols.
_GROUPS = """
  chain groups {
    ether daddr & ff:ff:ff:ff:ff:00 == 01:80:c2:00:00:00 goto x_link
    ether daddr & ff:ff:ff:00:00:00 == 01:00:0c:00:00:00 goto x_link
  }
"""
# The kernel has looked at the address when the frame came in: asking for what it found costs half
# of a look of our own. Only a device that has a group's address itself would hide one, and no TAP
# can have it (eth_type_trans, eth_prepare_mac_addr_change in net/ethernet/eth.c).
_NO_GROUP = "meta pkttype multicast jump groups"
# Below 0x600 a type is a length: LLC, in which STP and CDP come, and which Windows would take IP
# and ARP from that no rule here has seen.
_NO_LLC = "meta protocol < 0x0600 goto x_link"

# Chains of ports with `addresses` have this at the end of their names.
_PINNED = "_pinned"

# Every check says what may pass, and a chain ends in a drop: a field that is not there, because the
# frame is short, a later fragment, or has headers that the kernel does not get through, ends the
# rule that asks for it, whatever it says.
#
# 0x0001 Ethernet, 0x0800 IPv4, lengths 6 and 4. Linux takes hardware type 6 for Ethernet as well
# (arp_process in net/ipv4/arp.c), and nft's own `arp saddr ether` would not look at such a frame.
_ARP = f"@nh,0,48 0x000108000604 iifname . @nh,64,48 @{SET_RAW}"
_ARP_PINNED = f"meta protocol arp iifname . arp saddr ip @{SET_SRC4}"

# Neighbor discovery as hosts do it: no extension header (RFC 6980 forbids fragments for this
# reason), at most one option of 8 bytes, which is the sender's address or, in the probe for a
# duplicate, a nonce (RFC 7527). So there is no second option for a lie. @nh,32,24 is the payload's
# length and the next header, which is 58; options begin at @th,192 and, in solicitations of
# routers, at @th,64. The target is @th,64,128: a probe for a duplicate claims it as well.
_NEIGHBORS = f"""
  chain c_rs {{
    @nh,32,24 0x00083a return
    @nh,32,24 0x00103a @th,64,16 0x0101 iifname . @th,80,48 @{SET_RAW} return
    goto x_nd
  }}
  chain c_ns {{
    @nh,32,24 0x00183a return
    @nh,32,24 0x00203a @th,192,16 0x0101 iifname . @th,208,48 @{SET_RAW} return
    @nh,32,24 0x00203a @th,192,16 0x0e01 return
    goto x_nd
  }}
  chain c_ns{_PINNED} {{
    meta protocol ip6 ip6 saddr != :: goto c_ns
    iifname . @th,64,128 @{SET_ND6} goto c_ns
    goto x_nd
  }}
  chain c_na {{
    @nh,32,24 0x00183a return
    @nh,32,24 0x00203a @th,192,16 0x0201 iifname . @th,208,48 @{SET_RAW} return
    goto x_nd
  }}
  chain c_na{_PINNED} {{
    iifname . @th,64,128 @{SET_ND6} goto c_na
    goto x_nd
  }}
"""

# @th,0,16 is the source port, @th,16,16 the destination port: clients look at the latter alone.
# Both are in the first fragment, whose length is a multiple of 8, and in no later one. Without an
# IP header that the kernel takes for one there is no `meta l4proto`.
_V4 = """
    meta l4proto != udp accept
    @th,0,16 != 67 @th,16,16 != 68 accept
    meta l4proto udp @nh,48,16 & 0x1fff != 0 accept
    meta l4proto udp goto x_dhcp
    goto x_ip"""
# @nh,48,8 is the first next header, 6 TCP, 17 UDP: most packets have no other.
#
# A fragment must not begin with an extension header: what is behind it may be in the next fragment,
# and the kernel looks on into the frame's padding, which may say something else.
_BEFORE_OTHERS = "{ 0, 43, 44, 51, 60, 135, 139, 140, 253, 254 }"
_PORTS_V6 = "@th,0,16 != 547 @th,16,16 != 546 accept"
_V6 = f"""
    @nh,48,8 6 accept
    @nh,48,8 17 {_PORTS_V6}
    meta protocol ip6 exthdr frag exists goto c_fragment6
    meta l4proto != udp accept
    {_PORTS_V6}
    meta l4proto udp goto x_dhcp
    goto x_ip"""
_FRAGMENT_V6 = f"""
  chain c_fragment6 {{
    meta protocol ip6 frag nexthdr {_BEFORE_OTHERS} goto x_ip
    meta l4proto != udp accept
    {_PORTS_V6}
    meta protocol ip6 frag frag-off != 0 accept
    meta l4proto udp goto x_dhcp
    goto x_ip
  }}
"""

# A host without an address sends from 0.0.0.0 or ::, but only to get one.
_V4_PINNED = f"""
    meta protocol ip ip saddr != 0.0.0.0 iifname . ip saddr @{SET_SRC4} goto c_ports4
    meta protocol ip iifname . ip saddr @{SET_SRC4} meta l4proto udp @th,0,32 0x00440043 accept
    goto x_ip"""
_V6_PINNED = f"""
    meta protocol ip6 ip6 saddr != :: iifname . ip6 saddr @{SET_SRC6} goto c_ports6
    meta protocol ip6 iifname . ip6 saddr @{SET_SRC6} meta l4proto ipv6-icmp accept
    goto x_ip"""
_PORTS = f"""{_FRAGMENT_V6}
  chain c_ports4 {{{_V4}
  }}
  chain c_ports6 {{{_V6}
  }}
"""


def _checks(*, is_pinned: bool) -> str:
    """Return the chains that check what one kind of port sends."""
    kind = _PINNED if is_pinned else ""
    return f"""
  chain c_arp{kind} {{
    {_NO_GROUP}
    {_ARP} {_ARP_PINNED if is_pinned else ""} accept
    goto x_arp
  }}
  chain c_v4{kind} {{
    {_NO_GROUP}{_V4_PINNED if is_pinned else _V4}
  }}
  chain c_icmp6{kind} {{
    meta protocol ip6 exthdr frag exists goto x_nd
    meta protocol ip6 meta l4proto ipv6-icmp icmpv6 type vmap {{ \
nd-router-advert : goto x_ra, nd-redirect : goto x_ra, nd-router-solicit : goto c_rs, \
nd-neighbor-solicit : goto c_ns{kind}, nd-neighbor-advert : goto c_na{kind} }}
    @th,0,8 != 133-137 return
    goto x_nd
  }}
  chain c_v6{kind} {{
    {_NO_GROUP}
    meta l4proto ipv6-icmp jump c_icmp6{kind}{_V6_PINNED if is_pinned else _V6}
  }}
  chain c_tag{kind} {{
    meta protocol vmap {{ ip : goto c_v4{kind}, ip6 : goto c_v6{kind}, arp : goto c_arp{kind} }}
    {_NO_GROUP}
    meta protocol {_TAGS} goto x_tag
    {_NO_LLC}
    accept
  }}
"""


# What has no chain of its own. IP and ARP do: such a frame here means that elements are missing.
_OTHER = f"""
  chain c_other {{
    {_NO_GROUP}
    ether type {_TAGS} goto x_tag
    {_NO_LLC}
    meta protocol {{ ip, ip6, arp }} drop
    accept
  }}
"""

# The map comes first, and so frames from outside are looked for in it, too: both ways cost the same
# then. The other way round a guest's frames would cost a quarter more, and those half of it.
#
# `input` is what the bridge hands to the node's own stack, `output` what that stack sends.
_HOOKS = f"""
  chain pre {{
    type filter hook prerouting priority {PRIORITY}; policy accept;
    iifname . @ll,48,64 vmap @{MAP_FRAMES}
    iifname != "{TAP_PREFIX}*" accept
    iifname . @ll,48,48 @{SET_RAW} goto c_other
    goto x_mac
  }}
  chain in {{
    type filter hook input priority {PRIORITY}; policy accept;
    iifname "{TAP_PREFIX}*" drop
  }}
  chain out {{
    type filter hook output priority {PRIORITY}; policy accept;
    oifname "{TAP_PREFIX}*" drop
  }}
"""


def frame_chains(*, is_pinned: bool, is_trunk: bool) -> Mapping[int, str]:
    """Return which chain checks what a port sends, by the frame's outer ethertype.

    Args:
        is_pinned: The port may send from certain IP addresses only.
        is_trunk: It may send frames with a tag.
    """
    names = {0x0800: "c_v4", 0x86DD: "c_v6", 0x0806: "c_arp"} | (
        {0x8100: "c_tag"} if is_trunk else {}
    )
    return {ethertype: name + _PINNED * is_pinned for ethertype, name in names.items()}


def drop_set(reason: Reason) -> str:
    """Return the set whose elements count one port's drops for `reason`."""
    return f"d_{reason}"


def table_text(flags: str = "") -> str:
    """Return what makes the table, or makes it current: its elements stay, its rules are new.

    One transaction: no frame sees it half done.

    Args:
        flags: Flags of the table in nft's notation, such as `"owner, persist"`.
    """
    drops = "".join(
        f"\n  set {drop_set(reason)} {{ typeof iifname; counter; }}"
        f"\n  chain x_{reason} {{ iifname @{drop_set(reason)} drop; drop; }}"
        for reason in Reason
    )
    declared = f"flags {flags};" if flags else ""
    chains = "".join(
        (_GROUPS, _NEIGHBORS, _PORTS, *(_checks(is_pinned=kind) for kind in (False, True)), _OTHER)
    )
    # The first statement makes the table exist, so that the second has chains to empty. A chain
    # that is new is empty; flushing takes rules alone, neither sets nor chains.
    return (
        f"add table {FAMILY} {TABLE} {{ {declared} }}\n"
        f"flush table {FAMILY} {TABLE}\n"
        f"table {FAMILY} {TABLE} {{ {declared}\n{_SETS}{drops}{chains}{_MAP}{_HOOKS}}}\n"
    )
