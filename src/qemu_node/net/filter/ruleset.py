"""The text of the nftables table that stops spoofed frames of guests. Pure.

Owns the rules, the sets and the reasons for a drop. Does not own what is in the sets (`elements`)
nor loading the table (`filtertable`).

The table fails closed: no frame of a TAP (`qn*`) without elements passes. There is no rule per VM:
what differs between VMs is in sets keyed by the TAP. So adding a port is one small transaction, and
a frame takes the same time with 200 VMs as with one. Other ports of the bridge are not filtered.

The work for every frame is the cost of filtering. So one lookup, by TAP, source address and
ethertype, checks the sender and selects the chain for the frame and the kind of port. Two
comparisons remain for IPv4, three for IPv6.

Traps behind the form of the rules, each seen with nft 1.1.3 on Linux 6.12:
- In the bridge family the dependencies that nft itself adds to `arp …` and `icmpv6 …` read the
  ethertype from the link header and miss every tagged frame. `meta protocol` and raw payload
  (`@nh`, `@th`) see both.
- `ether type` is the outer tag's, although the kernel has stripped the tag; `meta protocol` is the
  inner frame's.
- The name of a set or chain must not be one of nft's many keywords.
"""

from collections.abc import Mapping
from enum import StrEnum

from qemu_node.net.portspec import TAP_PREFIX

FAMILY = "bridge"
TABLE = "qn"

PRIORITY = -250
"""Before ebtables' and the bridge's own conntrack (-200, include/uapi/linux/netfilter_bridge.h)."""


class Reason(StrEnum):
    """Why a guest's frame was dropped. The value is the counter's name."""

    MAC = "mac"
    """Its source MAC address is not the NIC's."""
    ARP = "arp"
    """ARP from another sender, from an address that it may not have, or not for IPv4."""
    ND = "nd"
    """The same for IPv6 neighbor discovery, or a fragmented ICMPv6 packet."""
    DHCP = "dhcp"
    """A DHCP server's answer, or UDP whose ports cannot be read."""
    RA = "ra"
    """A router advertisement or a redirect."""
    IP = "ip"
    """A source address outside of the policy's `addresses`, or no valid IP header."""
    TAG = "tag"
    """A VLAN tag that is not allowed, or a second one."""
    LINK = "link"
    """A protocol between switches: STP, LACP, LLDP, CDP, PVST, GVRP, or any LLC frame."""


# What each port sends: TAP . source address and ethertype → the chain that checks such frames.
# Address and ethertype are one piece of raw payload, which the kernel loads at once. If a chain
# gets another meaning or name, rename the map: a new driver's rules are used with the elements of
# the old one.
MAP_FRAMES = "frames"
# Sets with a value: source addresses, and networks for ports with `addresses`. Their keys are raw
# payload if nft does not know the type. `nd_v6` has the same as `src_v6`, for the targets in ND.
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

# The tags of the IEEE, and those that vendors used before 802.1ad.
_TAGS = "{ 8021q, 8021ad, 0x9100, 0x9200, 0x9300 }"

# 01:80:c2:00:00:xx are multicast addresses of IEEE 802.1 (bridges, LACP, LLDP, MVRP),
# 01:00:0c:xx:xx:xx of Cisco's protocols.
_GROUPS = """
  chain groups {
    ether daddr & ff:ff:ff:ff:ff:00 == 01:80:c2:00:00:00 goto x_link
    ether daddr & ff:ff:ff:00:00:00 == 01:00:0c:00:00:00 goto x_link
  }
"""
# The kernel classifies the destination when the frame comes in: reading its result costs half as
# much as comparing. A multicast frame is missed only if the device itself has that address, and a
# TAP cannot (eth_type_trans, eth_prepare_mac_addr_change in net/ethernet/eth.c).
_NO_GROUP = "meta pkttype multicast jump groups"
# A type below 0x600 is a length: LLC, which carries STP and CDP. Windows also accepts IP and ARP
# in LLC, which no rule here would see.
_NO_LLC = "meta protocol < 0x0600 goto x_link"

# The suffix of the chains for ports with `addresses`.
_PINNED = "_pinned"

# Every check says what may pass, and every chain ends in a drop. If a field is missing (a short
# frame, a later fragment, headers that the kernel cannot parse), the rule that reads it does not
# match.
#
# 0x0001 Ethernet, 0x0800 IPv4, lengths 6 and 4. Linux accepts hardware type 6 as Ethernet, too
# (arp_process in net/ipv4/arp.c), but nft's `arp saddr ether` does not match such a frame.
_ARP = f"@nh,0,48 0x000108000604 iifname . @nh,64,48 @{SET_RAW}"
_ARP_PINNED = f"meta protocol arp iifname . arp saddr ip @{SET_SRC4}"

# Neighbor discovery as hosts send it: no extension header (RFC 6980 forbids fragments for this
# reason) and at most one option of 8 bytes, which is the sender's address or, in duplicate address
# detection, a nonce (RFC 7527). So a second option cannot hold a false address. @nh,32,24 is the
# payload's length and the next header, which is 58. Options begin at @th,192, in router
# solicitations at @th,64. The target is @th,64,128; duplicate address detection claims it, too.
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

# @th,0,16 is the source port, @th,16,16 the destination port; DHCP clients check only the latter.
# Only the first fragment has them, and it has both, because its length is a multiple of 8. Without
# a valid IP header there is no `meta l4proto`.
_V4 = """
    meta l4proto != udp accept
    @th,0,16 != 67 @th,16,16 != 68 accept
    meta l4proto udp @nh,48,16 & 0x1fff != 0 accept
    meta l4proto udp goto x_dhcp
    goto x_ip"""
# @nh,48,8 is the first next header: 6 is TCP, 17 UDP. Most packets have no other.
#
# A fragment must not begin with an extension header: the next header may be in the next fragment,
# and the kernel would read the frame's padding instead.
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

# A host without an address sends from 0.0.0.0 or ::, but only to get an address.
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
    """Return the chains that check the frames of one kind of port."""
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


# Frames of other ethertypes. IP and ARP have chains of their own: here they mean that elements are
# missing.
_OTHER = f"""
  chain c_other {{
    {_NO_GROUP}
    ether type {_TAGS} goto x_tag
    {_NO_LLC}
    meta protocol {{ ip, ip6, arp }} drop
    accept
  }}
"""

# The map comes first, so frames from outside are looked up in it, too, and cost the same as a
# guest's. In the other order a guest's frames would cost a quarter more, and those from outside
# half as much.
#
# `input` is for frames to the node's own network stack, `output` for frames from it.
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
    """Return the chain that checks a port's frames, by the frame's outer ethertype.

    Args:
        is_pinned: The port may only send from certain IP addresses.
        is_trunk: The port may send tagged frames.
    """
    names = {0x0800: "c_v4", 0x86DD: "c_v6", 0x0806: "c_arp"} | (
        {0x8100: "c_tag"} if is_trunk else {}
    )
    return {ethertype: name + _PINNED * is_pinned for ethertype, name in names.items()}


def drop_set(reason: Reason) -> str:
    """Return the set whose elements count the frames of a port dropped for `reason`."""
    return f"d_{reason}"


def table_text(flags: str = "") -> str:
    """Return the commands that load the table, or replace its rules; its elements stay.

    They are one transaction: no frame meets a half-loaded table.

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
    # The first statement makes sure that the table exists, so that the second can flush it. A
    # flush removes only rules, not sets or chains.
    return (
        f"add table {FAMILY} {TABLE} {{ {declared} }}\n"
        f"flush table {FAMILY} {TABLE}\n"
        f"table {FAMILY} {TABLE} {{ {declared}\n{_SETS}{drops}{chains}{_MAP}{_HOOKS}}}\n"
    )
