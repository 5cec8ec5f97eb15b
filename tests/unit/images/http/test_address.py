from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ConfigError
from qemu_node.images.http.address import Address, AddressPolicy, parse_networks

OWN = ip_address("192.0.2.7")


def is_own(address: Address) -> bool:
    return address == OWN


def reason(text: str, **networks: str) -> str | None:
    policy = AddressPolicy(
        **{name: parse_networks(value.split(), name) for name, value in networks.items()}
    )
    return policy.reason_against(ip_address(text), is_own)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "0.1.2.3", "::", "169.254.169.254",
        "169.254.0.1", "fe80::1", "fe80::1%2", "febf::1", "224.0.0.251", "239.1.1.1", "ff02::1",
        "255.255.255.255", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.2.7",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:192.0.2.7", "::127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::192.0.2.7", "2002:7f00:1::1",
        "2001:0:7f00:1::", "2001:0:101:101:0:0:80ff:fffe",
    ],
)  # fmt: skip
def test_what_is_not_for_images_is_refused(text: str) -> None:
    assert reason(text)


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1", "192.168.1.1", "172.16.0.1", "8.8.8.8", "2001:db8::1", "fd12::1", "192.0.2.8",
     "::ffff:10.0.0.1", "64:ff9b::8.8.8.8", "2002:808:808::1"],
)  # fmt: skip
def test_other_addresses_are_connected_to(text: str) -> None:
    assert reason(text) is None


def test_operator_refuses_further_networks_and_makes_exceptions() -> None:
    assert reason("10.1.2.3", refuse="10.0.0.0/8") == "in images.refuse_networks"
    assert reason("::ffff:10.1.2.3", refuse="10.0.0.0/8") == "in images.refuse_networks"
    assert reason("10.1.2.3", refuse="10.0.0.0/8", allow="10.1.2.3") is None
    assert reason("127.0.0.1", allow="127.0.0.0/8") is None
    assert reason("::ffff:127.0.0.1", allow="127.0.0.0/8") is None
    assert reason("127.0.0.1", allow="::/0 10.0.0.0/8")
    assert reason("192.0.2.7", allow="192.0.2.0/24") is None
    assert reason("fd12::1", refuse="fd00::/8") == "in images.refuse_networks"


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "10.0.0.1/8", "host", "10.0.0"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"images\.allow_networks"):
        parse_networks([text], "images.allow_networks")


@given(st.integers(0, 2**32 - 1))
def test_ipv4_address_is_judged_alike_in_every_clothing(number: int) -> None:
    plain = AddressPolicy().reason_against(IPv4Address(number), is_own)
    for top in (0xFFFF << 32, 0x64FF9B << 96, 0x2002 << 112):
        shift = 80 if top == 0x2002 << 112 else 0
        wrapped = IPv6Address(top | (number << shift))
        assert bool(AddressPolicy().reason_against(wrapped, is_own)) == bool(plain)


@given(st.ip_addresses(v=6))
def test_any_ipv6_address_can_be_judged(address: IPv6Address) -> None:
    AddressPolicy().reason_against(address, is_own)
