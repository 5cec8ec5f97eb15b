"""The kernel's messages about network changes, and what VMs lose by them. Pure.

Owns parsing messages about devices, VLANs and nftables, and that judgement. Does not own receiving
them (`watch`) nor repairing anything (`manager`).

A message does not say which process caused the change. What counts is whether running VMs lack
something afterwards. Our own changes usually do not count: a driver that detaches a port has
forgotten it before the message comes, and an attach takes nothing away. At worst there is one
reconcile that finds nothing to do. Numbers are those of
include/uapi/linux/{rtnetlink,if_link,if_bridge}.h and netfilter/{nfnetlink,nf_tables}.h.
"""

import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from qemu_node.net.netlink.answers import LinkFacts, active_port
from qemu_node.net.netlink.messages import attributes
from qemu_node.net.portspec import PortSpec

_HEADER_BYTES = 16

_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWVLAN, _RTM_DELVLAN = 16, 17, 112, 113
_AF_BRIDGE = 7
_IFF_UP = 1
_IS_NEW = 0xFFFFFFFF
"""`ifi_change` of a new device: all its flags count as changed."""
_IFLA_IFNAME, _IFLA_MASTER = 3, 10
_VLANDB_ENTRY, _VLANDB_INFO, _VLANDB_RANGE = 1, 1, 2
_PVID_OR_UNTAGGED = 0x6

_NFT_SUBSYSTEM = 10
_FAMILIES = {1: "inet", 7: "bridge"}
_NFT_DELTABLE, _NFT_DELCHAIN, _NFT_NEWRULE, _NFT_DELRULE, _NFT_DELSET = 2, 5, 6, 8, 11
_NFT_DELSETELEM = 14
_NFT_RULES = (_NFT_DELTABLE, _NFT_DELCHAIN, _NFT_NEWRULE, _NFT_DELRULE, _NFT_DELSET)
_TABLE_NAME = 1
"""The table's name: attribute 1 of tables, chains, rules, sets and elements."""
_ELEMENTS, _ELEMENT_KEY, _DATA_VALUE = 3, 1, 1
_IFNAME_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkNotice:
    """A device is new or has changed, has left its bridge, or is gone."""

    ifindex: int
    ifname: str
    master: int = 0
    """The ifindex of its bridge; 0: none."""
    is_set_down: bool = False
    has_left: bool = False
    is_gone: bool = False
    active_port: int = 0
    """As in `LinkFacts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VlanNotice:
    """A bridge port has begun or stopped to carry VLANs."""

    ifindex: int
    first: int
    last: int
    is_untagged: bool
    is_gone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TableNotice:
    """Something in a table was removed, or a rule was added."""

    table: str
    """Family and name, as nft writes them."""
    taps: frozenset[str] | None
    """The TAPs whose elements were removed; None: more than elements."""


UPLINK_MOVED = "the uplink's NIC"
"""The loss if the uplink has changed its NIC: switches must learn the VMs' addresses again."""

Notice = LinkNotice | VlanNotice | TableNotice


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What VMs need and others must not remove."""

    bridge: str
    uplink: str
    management_vlan: int
    tables: frozenset[str]
    """As in `TableNotice`."""
    ports: Mapping[str, PortSpec]
    """The ports of running VMs, by TAP."""

    @property
    def vids(self) -> frozenset[int]:
        """The VLANs that the uplink must carry."""
        return frozenset[int]().union(*(port.vids for port in self.ports.values()))


def route_notices(data: bytes) -> Iterator[LinkNotice | VlanNotice]:
    """Yield the notices in messages of rtnetlink; skip other messages."""
    for kind, body in _messages(data):
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and len(body) >= 16:
            yield from _link_notices(body, is_gone=kind == _RTM_DELLINK)
        elif kind in (_RTM_NEWVLAN, _RTM_DELVLAN) and len(body) >= 8:
            yield from _vlan_notices(body, is_gone=kind == _RTM_DELVLAN)


def table_notices(data: bytes) -> Iterator[TableNotice]:
    """Yield the notices in messages of nftables; skip other messages."""
    for kind, body in _messages(data):
        subsystem, event = kind >> 8, kind & 0xFF
        if subsystem != _NFT_SUBSYSTEM or len(body) < 4:
            continue
        family = _FAMILIES.get(body[0])
        found = dict(attributes(body[4:]))
        if family is None or event not in (*_NFT_RULES, _NFT_DELSETELEM):
            continue
        taps = None if event in _NFT_RULES else _taps(found.get(_ELEMENTS, b""))
        yield TableNotice(table=f"{family} {_text(found.get(_TABLE_NAME, b''))}", taps=taps)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each message; stop at an incomplete one."""
    while len(data) >= _HEADER_BYTES:
        length, kind = struct.unpack_from("=IH", data)
        if not _HEADER_BYTES <= length <= len(data):
            return
        yield kind, data[_HEADER_BYTES:length]
        data = data[length + (-length % 4) :]


def _link_notices(body: bytes, *, is_gone: bool) -> Iterator[LinkNotice]:
    family, ifindex, flags, change = struct.unpack_from("=BxxxiII", body)
    of_bridge = family == _AF_BRIDGE
    if of_bridge and not is_gone:
        # A change of port settings. VLANs have messages of their own.
        return
    found = dict(attributes(body[16:]))
    yield LinkNotice(
        ifindex=ifindex,
        ifname=_text(found.get(_IFLA_IFNAME, b"")),
        master=int.from_bytes(found.get(_IFLA_MASTER, b""), sys.byteorder),
        is_set_down=not flags & _IFF_UP and bool(change & _IFF_UP) and change != _IS_NEW,
        has_left=is_gone and of_bridge,
        is_gone=is_gone and not of_bridge,
        active_port=active_port(found),
    )


def _vlan_notices(body: bytes, *, is_gone: bool) -> Iterator[VlanNotice]:
    (ifindex,) = struct.unpack_from("=I", body, 4)
    for kind, entry in attributes(body[8:]):
        values = dict(attributes(entry)) if kind == _VLANDB_ENTRY else {}
        info, end = values.get(_VLANDB_INFO, b""), values.get(_VLANDB_RANGE, b"")
        if len(info) < 4:
            continue
        flags, first = struct.unpack_from("=HH", info)
        last = struct.unpack_from("=H", end)[0] if len(end) >= 2 else first
        yield VlanNotice(
            ifindex=ifindex,
            first=first,
            last=last,
            is_untagged=bool(flags & _PVID_OR_UNTAGGED),
            is_gone=is_gone,
        )


def _taps(elements: bytes) -> frozenset[str]:
    """Return the TAPs in the keys of elements: the first part of each key of ours."""
    keys = (dict(attributes(element)).get(_ELEMENT_KEY, b"") for _, element in attributes(elements))
    values = (dict(attributes(key)).get(_DATA_VALUE, b"") for key in keys)
    return frozenset(_text(value[:_IFNAME_BYTES]) for value in values)


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")


class Judge:
    """Decides which notices concern VMs. Remembers the bridge and the uplink."""

    def __init__(self, links: Iterable[LinkFacts]) -> None:
        """Take the devices that exist before the first notice."""
        self._known = {link.ifname: (link.ifindex, link.master) for link in links}
        self._active = {link.ifname: link.active_port for link in links}

    def losses(
        self, notices: Iterable[Notice], names: Mapping[int, str], watched: Watched
    ) -> list[str]:
        """Return in words what VMs may have lost; empty if no notice concerns them.

        Args:
            notices: The notices in order.
            names: The names of the existing devices, by ifindex. A TAP that is gone is not a loss:
                its QEMU has ended.
            watched: What VMs need at present.
        """
        found: list[str] = []
        vlans: dict[tuple[str, int], VlanNotice] = {}
        for notice in notices:
            match notice:
                case LinkNotice():
                    found += self._link_losses(notice, names, watched)
                case TableNotice():
                    found += _table_losses(notice, watched)
                case VlanNotice():
                    # The last notice about each VLAN counts: one request may remove and add it.
                    name = names.get(notice.ifindex, "")
                    if name and (name == watched.uplink or name in watched.ports):
                        vids = range(notice.first, min(notice.last, 4095) + 1)
                        vlans |= dict.fromkeys(((name, vid) for vid in vids), notice)
        found += (
            f"VLANs of {name}"
            for (name, vid), notice in vlans.items()
            if _is_wrong(name, vid, notice, watched)
        )
        return list(dict.fromkeys(found))

    def _link_losses(
        self, notice: LinkNotice, names: Mapping[int, str], watched: Watched
    ) -> Iterator[str]:
        name = notice.ifname
        if name in watched.ports:
            is_there = names.get(notice.ifindex) == name
            if is_there and (notice.has_left or notice.is_set_down):
                yield f"port {name}"
        elif name and name in (watched.bridge, watched.uplink):
            if notice.is_gone or notice.has_left:
                is_news = self._known.pop(name, None) is not None
            else:
                state = notice.ifindex, notice.master
                is_news = self._known.get(name) != state
                self._known[name] = state
            if is_news:
                yield name
            if name == watched.uplink and self._has_moved(notice):
                yield UPLINK_MOVED

    def _has_moved(self, notice: LinkNotice) -> bool:
        """Tell whether the uplink uses another NIC than before, or has one again."""
        last = self._active.get(notice.ifname, 0)
        if notice.has_left:
            return False
        self._active[notice.ifname] = notice.active_port
        return notice.active_port not in (0, last)


def _table_losses(notice: TableNotice, watched: Watched) -> Iterator[str]:
    if notice.table in watched.tables and (
        notice.taps is None or not notice.taps.isdisjoint(watched.ports)
    ):
        yield f"table {notice.table}"


def _is_wrong(name: str, vid: int, notice: VlanNotice, watched: Watched) -> bool:
    """Tell whether the last notice about a VLAN of a port contradicts what the port should be.

    A VLAN too many on the uplink gives no VM access to anything, so it can wait for the next
    reconcile. But an untagged one belongs to the operating system, and that must be known before a
    VM starts in it.
    """
    port = watched.ports.get(name)
    if port is None:
        if notice.is_gone:
            return vid in watched.vids
        return notice.is_untagged and vid != watched.management_vlan
    if vid not in port.vids:
        return not notice.is_gone
    return notice.is_gone or notice.is_untagged != (port.vlan == vid)
