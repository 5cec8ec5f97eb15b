import asyncio
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from fakes.fake_qga import FakeQga
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.qga.agent import GuestAgent
from qemu_node.qga.replies import GuestInterface
from qemu_node.vm.life.guestnet import GuestNetwork, addresses_of, until_addressed, useful_addresses
from qemu_node.vm.record.record import NicRecord

MAC = "02:00:00:00:00:01"
NIC = NicRecord(mode="vlan", mac=MAC, ifname="qn0", vlan=30)


def interface(mac: str, *addresses: str) -> GuestInterface:
    return GuestInterface(name="eth0", mac=mac, addresses=addresses)


def test_addresses_that_lead_nowhere_are_dropped() -> None:
    given = ["fe80::1", "127.0.0.1", "::1", "2001:db8::1", "10.0.2.15/24", "0.0.0.0", "\x1b[2J"]
    more = ["224.0.0.1", "255.255.255.255", "ff02::1", "169.254.1.1", "10.0.2.15"]
    assert useful_addresses(given + more) == ("10.0.2.15", "2001:db8::1")


def test_a_nic_s_addresses_are_those_of_its_mac() -> None:
    guest = [
        interface("02:00:00:00:00:02", "10.9.9.9"),
        interface("", "10.8.8.8"),
        interface(MAC),
        interface(MAC, "2001:db8::5", "10.1.2.3"),
    ]
    assert addresses_of(guest, MAC) == ("10.1.2.3", "2001:db8::5")
    assert addresses_of(guest, "02:00:00:00:00:03") == ()


def test_what_the_policy_does_not_give_is_not_believed() -> None:
    guest = [interface(MAC, "10.1.2.3", "192.0.2.1", "2001:db8::5")]
    assert addresses_of(guest, MAC, ("10.0.0.0/8",)) == ("10.1.2.3",)
    assert addresses_of(guest, MAC, ("2001:db8::/64", "192.0.2.0/24")) == (
        "192.0.2.1",
        "2001:db8::5",
    )


@given(
    st.lists(
        st.one_of(st.text(max_size=12), st.ip_addresses().map(str)).map(
            lambda text: interface(MAC, text)
        ),
        max_size=5,
    )
)
def test_whatever_a_guest_claims_is_an_address_of_its_networks(
    guest: list[GuestInterface],
) -> None:
    networks = ("10.0.0.0/8", "2001:db8::/32")
    for text in addresses_of(guest, MAC, networks):
        assert any(ip_address(text) in ip_network(network) for network in networks)


async def test_a_guest_is_asked_until_it_has_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_node.vm.life.guestnet._PAUSE_MIN_S", 0.01)
    answers = iter(
        [
            [],
            [{"name": "eth0", "hardware-address": MAC}],
            [
                {
                    "name": "eth0",
                    "hardware-address": MAC,
                    "ip-addresses": [
                        {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64},
                        {"ip-address": "10.1.2.3", "ip-address-type": "ipv4", "prefix": 24},
                    ],
                }
            ],
        ]
    )
    replies = {
        "guest-network-get-interfaces": lambda _arguments: next(answers),
        "guest-get-host-name": {"host-name": "web-0" + "x" * 100},
    }
    async with FakeQga(tmp_path / "qga.sock", replies=replies), asyncio.timeout(30):
        agent = GuestAgent(tmp_path / "qga.sock", tmp_path / "qga.lock")
        found = await until_addressed(agent, [NIC])
    assert found == GuestNetwork(host_name=("web-0" + "x" * 100)[:64], addresses=("10.1.2.3",))


@pytest.mark.parametrize(
    ("ipv4_wait_s", "expected"), [(60.0, ("10.1.2.3", "2001:db8::1")), (0.0, ("2001:db8::1",))]
)
async def test_an_ipv6_address_waits_for_dhcp_as_long_as_it_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ipv4_wait_s: float,
    expected: tuple[str, ...],
) -> None:
    monkeypatch.setattr("qemu_node.vm.life.guestnet._PAUSE_MIN_S", 0.01)
    addresses = iter([["2001:db8::1"], ["2001:db8::1"], ["2001:db8::1", "10.1.2.3"]])

    def interfaces(_arguments: object) -> object:
        listed = [{"ip-address": address} for address in next(addresses)]
        return [{"name": "eth0", "hardware-address": MAC, "ip-addresses": listed}]

    replies = {"guest-network-get-interfaces": interfaces}
    async with FakeQga(tmp_path / "qga.sock", replies=replies), asyncio.timeout(30):
        agent = GuestAgent(tmp_path / "qga.sock", tmp_path / "qga.lock")
        found = await until_addressed(agent, [NIC], ipv4_wait_s=ipv4_wait_s)
    assert found.addresses == expected


async def test_a_guest_without_an_agent_is_asked_for_as_long_as_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_node.vm.life.guestnet._PAUSE_MIN_S", 0.01)
    agent = GuestAgent(tmp_path / "qga.sock", tmp_path / "qga.lock")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await until_addressed(agent, [NIC])
