from pathlib import Path

import pytest
from unit.nodeos.uplink.machines import MAC1, MAC2, machine, nic

from qemu_node.config.uplink import UplinkConfig, UplinkVlan
from qemu_node.nodeos.uplink.choice import Choice, Record, choose
from qemu_node.nodeos.uplink.files import (
    HEADER,
    PORT,
    bridge_network,
    environment,
    network_files,
    stale,
)

SHIPPED = Path(__file__).parents[4] / "osimage/files/usr/lib/systemd/network"
THERE = machine(nic(1, speed_mbit=1000), nic(2, speed_mbit=10_000))


def files(settings: UplinkConfig) -> dict[str, str]:
    return network_files(settings, choose(settings, THERE, Record()))


def section(text: str, name: str) -> list[str]:
    """Return the settings of a section, comments left out."""
    _, _, rest = text.partition(f"[{name}]\n")
    lines = rest.partition("\n[")[0].splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_without_settings_only_the_address_and_who_leads_are_written() -> None:
    assert files(UplinkConfig()) == {
        "20-br0.netdev.d/50-address.conf": f"{HEADER}[NetDev]\nMACAddress={MAC1}\n",
        "20-bond0.netdev.d/50-address.conf": f"{HEADER}[NetDev]\nMACAddress={MAC1}\n",
        "29-bond0-primary.network": f"""{HEADER}[Match]
Type=ether
Kind=!*
PermanentMACAddress={MAC2}

[Link]
RequiredForOnline=no

[Network]
Bond=bond0
LinkLocalAddressing=no
LLDP=yes
EmitLLDP=nearest-bridge
PrimarySlave=yes
""",
    }


def test_a_machine_without_nics_gets_no_file_so_that_networkd_derives_an_address() -> None:
    assert network_files(UplinkConfig(), Choice()) == {}


def test_what_is_generated_is_what_is_shipped_but_for_what_was_set() -> None:
    shipped = (SHIPPED / "40-br0.network").read_text()
    generated = "\n".join(bridge_network(UplinkConfig()))
    for name in ("Match", "Link", "Network", "BridgeVLAN", "DHCPv4"):
        assert section(generated, name) == section(shipped, name)
    ports = (SHIPPED / "30-bond0-ports.network").read_text()
    assert section(ports, "Network") == list(PORT)
    assert section(ports, "Link") == ["RequiredForOnline=no"]


def test_lacp_has_no_primary() -> None:
    made = files(UplinkConfig(mode="lacp"))
    assert "29-bond0-primary.network" not in made
    assert "Mode=802.3ad" in made["20-bond0.netdev.d/50-lacp.conf"]


def test_named_nics_are_matched_each_by_its_way_and_replace_the_file_for_all() -> None:
    made = files(UplinkConfig(nics=(MAC1.upper(), "0000:02:00.0", "eno*", "eth0")))
    matches = {name: section(text, "Match")[-1] for name, text in made.items() if name >= "30"}
    assert matches == {
        "30-bond0-ports.network": f"PermanentMACAddress={MAC1}",
        "31-bond0-ports.network": "Path=pci-0000:02:00.0 *-pci-0000:02:00.0",
        "32-bond0-ports.network": "Name=eno* eth0",
    }


def test_nics_named_without_an_address_replace_the_file_for_all_as_well() -> None:
    made = files(UplinkConfig(nics=("enp1s0",)))
    assert section(made["30-bond0-ports.network"], "Match")[-1] == "Name=none.none"
    assert section(made["32-bond0-ports.network"], "Match")[-1] == "Name=enp1s0"


def test_settings_that_fit_no_nic_leave_the_file_for_all_as_it_is() -> None:
    assert not any(name >= "30" for name in files(UplinkConfig(nics=("none",))))


def test_a_tagged_vlan_of_the_node_replaces_the_untagged_one() -> None:
    made = files(UplinkConfig(vlan=99))
    bridge = made["40-br0.network"]
    assert section(bridge, "BridgeVLAN") == ["VLAN=99", "PVID=99", "EgressUntagged=99"]
    assert environment(UplinkConfig(vlan=99)) == f'{HEADER}VLAN=99\nFLAGS=""\nMORE=""\n'


def test_static_addresses_are_instead_of_dhcp_only_if_that_is_off() -> None:
    static = UplinkConfig(
        dhcp=False,
        addresses=("192.0.2.10/255.255.255.0", "2001:db8::10/64"),
        gateways=("192.0.2.1",),
        dns=("192.0.2.53",),
        domains=("example.org",),
    )
    assert section(files(static)["40-br0.network"], "Network") == [
        "DHCP=no",
        "KeepConfiguration=dynamic-on-stop",
        "Address=192.0.2.10/24",
        "Address=2001:db8::10/64",
        "Gateway=192.0.2.1",
        "DNS=192.0.2.53",
        "Domains=example.org",
    ]
    both = UplinkConfig(addresses=("192.0.2.10/24",))
    assert section(files(both)["40-br0.network"], "Network")[0] == "DHCP=yes"


def test_a_further_vlan_is_a_device_of_the_node_and_no_way_to_elsewhere() -> None:
    vlan = UplinkVlan(vlan=200, addresses=("198.51.100.10/24",), mtu=1400)
    made = files(UplinkConfig(vlans=(vlan, UplinkVlan(vlan=201, dhcp=True))))
    assert "VLAN=br0.200" in section(made["40-br0.network"], "Network")
    assert section(made["40-br0.network"], "BridgeVLAN")[-2:] == ["VLAN=200", "VLAN=201"]
    assert section(made["20-br0.200.netdev"], "VLAN") == ["Id=200"]
    assert section(made["40-br0.200.network"], "Link") == ["RequiredForOnline=no", "MTUBytes=1400"]
    assert "Address=198.51.100.10/24" in section(made["40-br0.200.network"], "Network")
    assert "UseGateway=no" in section(made["40-br0.201.network"], "DHCPv4")
    assert 'MORE="200 201"' in environment(UplinkConfig(vlans=(vlan, UplinkVlan(vlan=201))))


def test_an_mtu_is_that_of_nics_bond_and_bridge() -> None:
    made = files(UplinkConfig(mtu=9000))
    assert {name for name, text in made.items() if "MTUBytes=9000" in text} == {
        "29-bond0-primary.network",
        "30-bond0-ports.network.d/50-mtu.conf",
        "40-bond0.network.d/50-mtu.conf",
        "40-br0.network.d/50-mtu.conf",
    }


@pytest.mark.parametrize(
    ("found", "removed"),
    [
        ({"29-bond0-primary.network": HEADER + "[Match]\n"}, ["29-bond0-primary.network"]),
        ({"10-operator.network": "[Match]\n"}, []),
        ({"20-br0.netdev.d/50-address.conf": HEADER}, []),
    ],
)
def test_only_files_of_an_earlier_run_are_removed(
    found: dict[str, str], removed: list[str]
) -> None:
    assert stale({"20-br0.netdev.d/50-address.conf": ""}, found) == removed
