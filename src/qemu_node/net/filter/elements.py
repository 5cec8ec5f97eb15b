"""The elements of the ruleset's sets: those of a port, and those of a listed table. Pure.

Owns writing and parsing elements. Does not own the sets and what they do (`ruleset`).
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from qemu_node.net.filter.listing import Rules, rules_of
from qemu_node.net.filter.ruleset import (
    FAMILY,
    MAP_FRAMES,
    SET_ND6,
    SET_RAW,
    SET_SRC4,
    SET_SRC6,
    TABLE,
    Reason,
    drop_set,
    frame_chains,
)
from qemu_node.net.portspec import PortSpec

_LINK_LOCAL = ipaddress.IPv6Network("fe80::/10")
# The source address of a host that has no address yet.
_UNSET4, _UNSET6 = ipaddress.IPv4Network("0.0.0.0/32"), ipaddress.IPv6Network("::/128")
_Network = TypeVar("_Network", ipaddress.IPv4Network, ipaddress.IPv6Network)
_REASONS = {drop_set(reason): reason for reason in Reason}


class Element(NamedTuple):
    """One element of one set. It has a TAP and, in most sets, a value."""

    set_name: str
    ifname: str
    value: str = ""
    """A MAC address, or a network in CIDR notation, whatever nft's own notation is; in the map of
    frames MAC and ethertype: `"02:00:00:00:00:a1 0800"`."""
    verdict: str = ""
    """In the map, the verdict for such frames in nft's notation: `"goto c_v4"`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableContent:
    """The content of a listed table: its elements, its rules, and the counts of dropped frames."""

    elements: frozenset[Element]
    drops: Mapping[str, Mapping[str, int]]
    """TAP → reason → frames since its elements were made."""
    rules: Rules = ()
    """Its chains and rules."""


def elements(port: PortSpec) -> list[Element]:
    """Return the elements that let `port` send as itself, and that count its dropped frames."""
    chains = frame_chains(is_pinned=bool(port.addresses), is_trunk=bool(port.trunk))
    found = [
        Element(MAP_FRAMES, port.ifname, f"{port.mac} {ethertype:04x}", f"goto {chain}")
        for ethertype, chain in chains.items()
    ]
    found.append(Element(SET_RAW, port.ifname, port.mac))
    found += [Element(drop_set(reason), port.ifname) for reason in Reason]
    if port.addresses:
        networks = [ipaddress.ip_network(address) for address in port.addresses]
        four = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
        six = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
        if six:
            # IPv6 does not work without a link-local address.
            six.append(_LINK_LOCAL)
        found += _networks(SET_SRC4, port.ifname, [*four, _UNSET4] if four else [])
        found += _networks(SET_SRC6, port.ifname, [*six, _UNSET6] if six else [])
        found += _networks(SET_ND6, port.ifname, six)
    return found


def _networks(set_name: str, ifname: str, networks: Sequence[_Network]) -> list[Element]:
    """Return an element for each network. Merge networks that overlap: the kernel refuses them."""
    return [
        Element(set_name, ifname, str(network))
        for network in ipaddress.collapse_addresses(networks)
    ]


def add_text(wanted: Iterable[Element]) -> str:
    """Return the commands that add elements. An element that exists is not changed."""
    return "".join(
        f"add element {_place(element)} {{ {_key(element)}"
        + (f" : {element.verdict} }}\n" if element.verdict else " }\n")
        for element in wanted
    )


def delete_text(unwanted: Iterable[Element], *, are_there: bool = False) -> str:
    """Return the commands that remove elements, whether they exist or not.

    Deleting a missing element fails the whole transaction, and Debian 12's nft has no `destroy`.
    So each element is added first. With `are_there` that is left out, which halves the work.
    """
    return "".join(
        ("" if are_there else add_text((element,)))
        + f"delete element {_place(element)} {{ {_key(element)} }}\n"
        for element in unwanted
    )


def _place(element: Element) -> str:
    return f"{FAMILY} {TABLE} {element.set_name}"


def _key(element: Element) -> str:
    """Return the key of an element in nft's notation."""
    key = f'"{element.ifname}"'
    return f"{key} . {_value(element)}" if element.value else key


def _value(element: Element) -> str:
    """Return the value of an element in the notation of its set."""
    if element.set_name in (MAP_FRAMES, SET_RAW):
        return "0x" + element.value.replace(":", "").replace(" ", "")
    if element.set_name == SET_ND6:
        network = ipaddress.IPv6Network(element.value)
        first, last = int(network[0]), int(network[-1])
        return f"{first:#034x}" if first == last else f"{first:#034x}-{last:#034x}"
    return element.value


def parse_listing(listing: Mapping[str, Any]) -> TableContent:
    """Return the content of a `list table` in libnftables' JSON (man 5 libnftables-json).

    An element that is not ours is returned in nft's own notation, or left out if it has no TAP.
    """
    found: set[Element] = set()
    drops: dict[str, dict[str, int]] = {}
    for item in listing["nftables"]:
        holder = item.get("set") or item.get("map") or {}
        for entry in holder.get("elem", ()):
            name = holder["name"]
            key, packets = _read_key(entry[0] if "map" in item else entry)
            ifname, *values = key if isinstance(key, list) else [key]
            if not isinstance(ifname, str):
                continue
            value = _read_value(name, values[0]) if values else ""
            verdict = _read_verdict(entry[1]) if "map" in item else ""
            found.add(Element(name, ifname, value, verdict))
            if name in _REASONS:
                drops.setdefault(ifname, {})[_REASONS[name]] = packets
    return TableContent(elements=frozenset(found), drops=drops, rules=rules_of(listing))


def _read_key(entry: Any) -> tuple[Any, int]:
    """Return the key of a listed element, a list if it is concatenated, and its packet counter."""
    packets = 0
    if isinstance(entry, dict) and "elem" in entry:
        packets = entry["elem"].get("counter", {}).get("packets", 0)
        entry = entry["elem"]["val"]
    if isinstance(entry, dict):
        entry = entry.get("concat")
    return entry, packets


def _read_value(set_name: str, value: Any) -> str:
    """Return a listed value in the notation of `Element`, or in nft's if it is not ours."""
    try:
        if set_name == MAP_FRAMES:
            # nft prints a value of 64 bits as a signed number.
            address, ethertype = divmod(_number(value) % (1 << 64), 1 << 16)
            return f"{address.to_bytes(6, 'big').hex(':')} {ethertype:04x}"
        if set_name == SET_RAW:
            return _number(value).to_bytes(6, "big").hex(":")
        if set_name == SET_ND6:
            first, last = value["range"] if isinstance(value, dict) else (value, value)
            bounds = ipaddress.IPv6Address(_number(first)), ipaddress.IPv6Address(_number(last))
            (network,) = ipaddress.summarize_address_range(*bounds)
            return str(network)
        if set_name in (SET_SRC4, SET_SRC6):
            prefix = value["prefix"] if isinstance(value, dict) else {"addr": value}
            written = f"{prefix['addr']}/{prefix['len']}" if "len" in prefix else prefix["addr"]
            return str(ipaddress.ip_network(written))
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    return str(value)


def _read_verdict(verdict: Mapping[str, Any]) -> str:
    """Return a listed verdict in nft's notation, such as `accept` and `goto c_v4`."""
    ((name, target),) = verdict.items()
    return name if target is None else f"{name} {target['target']}"


def _number(value: Any) -> int:
    """Return a number, which nft prints as hexadecimal text if it is large."""
    return value if isinstance(value, int) else int(value, 16)
