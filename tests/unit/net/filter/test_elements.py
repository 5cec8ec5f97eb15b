import ipaddress
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.filter.elements import Element, add_text, delete_text, elements, parse_listing
from qemu_node.net.filter.ruleset import (
    MAP_FRAMES,
    SET_ND6,
    SET_RAW,
    SET_SRC4,
    SET_SRC6,
    Reason,
    drop_set,
)
from qemu_node.net.portspec import PortSpec

TAP = "qn0123456789a00"
MAC = "02:00:00:00:00:a1"


def spec(*addresses: str, trunk: Sequence[int] = (), mac: str = MAC) -> PortSpec:
    return PortSpec(
        vm_id="web-0123456789ab",
        index=0,
        ifname=TAP,
        mac=mac,
        vlan=None if trunk else 30,
        trunk=tuple(trunk),
        addresses=addresses,
    )


def values(port: PortSpec, set_name: str) -> list[str]:
    return [element.value for element in elements(port) if element.set_name == set_name]


def listed(wanted: Sequence[Element]) -> dict[str, Any]:
    """Return what nft 1.0.6 and 1.1.3 print for `wanted` with -j."""
    sets: dict[str, list[Any]] = {}
    key: Any
    for element in wanted:
        value: Any = element.value
        if element.set_name == MAP_FRAMES:
            number = bytes.fromhex(value.replace(":", ""))
            goto, chain = element.verdict.split()
            key = {"concat": [element.ifname, int.from_bytes(number, "big", signed=True)]}
            sets.setdefault(MAP_FRAMES, []).append([key, {goto: {"target": chain}}])
            continue
        if element.set_name == SET_RAW:
            value = int(value.replace(":", ""), 16)
        elif element.set_name in (SET_SRC4, SET_SRC6):
            network = ipaddress.ip_network(value)
            address = str(network.network_address)
            value = (
                address
                if network.num_addresses == 1
                else {"prefix": {"addr": address, "len": network.prefixlen}}
            )
        elif element.set_name == SET_ND6:
            network = ipaddress.ip_network(value)
            first, last = (f"{int(address):#034x}" for address in (network[0], network[-1]))
            value = first if first == last else {"range": [first, last]}
        key = {"concat": [element.ifname, value]} if element.value else element.ifname
        if element.set_name.startswith("d_"):
            key = {"elem": {"val": key, "counter": {"packets": 7, "bytes": 420}}}
        sets.setdefault(element.set_name, []).append(key)
    objects: list[Any] = [{"metainfo": {"version": "1.1.3"}}, {"table": {"name": "qn"}}]
    objects += [
        {"map" if name == MAP_FRAMES else "set": {"name": name, "elem": found}}
        for name, found in sets.items()
    ]
    return {"nftables": [*objects, {"set": {"name": "src_v4"}}, {"map": {"name": "empty"}}]}


def frames(port: PortSpec) -> list[str]:
    return [
        f"{element.value.removeprefix(port.mac)} {element.verdict}".strip()
        for element in elements(port)
        if element.set_name == MAP_FRAMES
    ]


def test_a_port_has_its_source_and_a_counter_for_each_reason() -> None:
    found = elements(spec())
    assert Element("src_raw", TAP, MAC) in found
    assert {element.set_name for element in found} == {
        "frames", "src_raw", *(drop_set(reason) for reason in Reason),
    }  # fmt: skip


def test_what_a_port_sends_is_checked_by_ethertype() -> None:
    assert frames(spec()) == ["0800 goto c_v4", "86dd goto c_v6", "0806 goto c_arp"]


def test_only_a_trunk_may_send_tags() -> None:
    assert "8100 goto c_tag" in frames(spec(trunk=[30, 40]))
    assert not any(frame.startswith("8100") for frame in frames(spec()))


def test_what_a_port_with_addresses_sends_is_never_checked_without_them() -> None:
    found = frames(spec("10.0.0.0/8", trunk=[30]))
    assert len(found) == 4
    assert all(frame.endswith("_pinned") for frame in found)


def test_addresses_of_one_family_close_the_other() -> None:
    port = spec("10.0.0.0/8")
    assert "86dd goto c_v6_pinned" in frames(port)
    assert values(port, SET_SRC4) == ["0.0.0.0/32", "10.0.0.0/8"]
    assert values(port, SET_SRC6) == values(port, SET_ND6) == []
    assert values(spec("2001:db8::/64"), SET_SRC4) == []


def test_ipv6_addresses_come_with_link_local_ones_and_with_none_yet() -> None:
    port = spec("2001:db8::/64")
    assert values(port, SET_ND6) == ["2001:db8::/64", "fe80::/10"]
    assert values(port, SET_SRC6) == ["::/128", *values(port, SET_ND6)]


def test_networks_that_overlap_are_merged() -> None:
    port = spec("10.1.0.0/16", "10.0.0.0/8", "fe80::/64", "2001:db8::/64")
    assert values(port, SET_SRC4) == ["0.0.0.0/32", "10.0.0.0/8"]
    assert values(port, SET_SRC6) == ["::/128", "2001:db8::/64", "fe80::/10"]
    assert values(spec("0.0.0.0/0", "::/0"), SET_SRC6) == ["::/0"]


def test_every_set_has_its_own_notation() -> None:
    text = add_text(elements(spec("192.0.2.5/32", "2001:db8::/127", trunk=[30])))
    assert (
        f'add element bridge qn frames {{ "{TAP}" . 0x0200000000a18100 : goto c_tag_pinned }}\n'
    ) in text
    assert f'add element bridge qn src_raw {{ "{TAP}" . 0x0200000000a1 }}\n' in text
    assert f'add element bridge qn src_v4 {{ "{TAP}" . 192.0.2.5/32 }}\n' in text
    assert (
        f'nd_v6 {{ "{TAP}" . 0x20010db8000000000000000000000000-'
        "0x20010db8000000000000000000000001 }\n"
    ) in text
    assert f'add element bridge qn d_mac {{ "{TAP}" }}\n' in text


def test_removing_makes_each_element_exist_first() -> None:
    lines = delete_text([Element("d_mac", TAP)]).splitlines()
    assert lines == [
        f'add element bridge qn d_mac {{ "{TAP}" }}',
        f'delete element bridge qn d_mac {{ "{TAP}" }}',
    ]


def test_an_element_of_the_map_is_removed_by_its_key() -> None:
    key = f'bridge qn frames {{ "{TAP}" . 0x0200000000a10800'
    element = Element(MAP_FRAMES, TAP, f"{MAC} 0800", "accept")
    assert delete_text([element]) == f"add element {key} : accept }}\ndelete element {key} }}\n"


_NETWORKS = st.ip_addresses().flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(
        lambda bits: str(ipaddress.ip_network(f"{address}/{bits}", strict=False))
    )
)


_MACS = st.binary(min_size=6, max_size=6).map(lambda address: address.hex(":"))


@given(st.lists(_NETWORKS, max_size=6), st.lists(st.integers(2, 4000), max_size=1), _MACS)
def test_what_nft_lists_is_read_back_as_what_was_added(
    addresses: list[str], trunk: list[int], mac: str
) -> None:
    wanted = elements(spec(*addresses, trunk=trunk, mac=mac))
    content = parse_listing(json.loads(json.dumps(listed(wanted))))
    assert content.elements == frozenset(wanted)
    assert content.drops == {TAP: {reason.value: 7 for reason in Reason}}


@pytest.mark.parametrize(
    "entry",
    [
        {"concat": ["other0", {"set": [1]}]},
        {"concat": ["other0", {"prefix": {"addr": "x"}}]},
        {"range": [1, 2]},
        17,
        {"elem": {"val": {"prefix": {}}}},
    ],
)
@pytest.mark.parametrize("set_name", ["other", SET_RAW, SET_SRC4, SET_SRC6, SET_ND6, "d_mac"])
def test_elements_that_somebody_else_added_break_nothing(set_name: str, entry: Any) -> None:
    listing = {"nftables": [{"set": {"name": set_name, "elem": [entry]}}]}
    assert all(element.ifname == "other0" for element in parse_listing(listing).elements)


@pytest.mark.parametrize("key", [{"concat": ["other0", {"set": [1]}]}, {"concat": ["other0", -1]}])
@pytest.mark.parametrize("verdict", [{"accept": None}, {"jump": {"target": "c_v4"}}])
def test_elements_of_the_map_that_somebody_else_added_break_nothing(key: Any, verdict: Any) -> None:
    listing = {"nftables": [{"map": {"name": MAP_FRAMES, "elem": [[key, verdict]]}}]}
    found = parse_listing(listing).elements
    assert [element.ifname for element in found] == ["other0"]
    assert "delete element bridge qn frames" in delete_text(found)
