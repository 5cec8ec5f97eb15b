import pytest

from qemu_node.config.node import parse
from qemu_node.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('nics = ["eno1\\nBond=x"]', "is not a NIC"),
        ('nics = ["52:54:00:00:00"]', "is not a NIC"),
        ('primary = "03:00.0"', "is not a NIC"),
        ('mode = "lacp"\nprimary = "eno1"', "LACP uses all NICs"),
        ('mode = "balance-rr"', "mode"),
        ('mac = "01:00:5e:00:00:01"', "uplink.mac"),
        ('mac = "00:00:00:00:00:00"', "uplink.mac"),
        ("vlan = 1", "uplink.vlan must be 0 or 2 to 4094"),
        ("mtu = 576", "uplink.mtu must be 1280"),
        ('addresses = ["192.0.2.10"]', "has no prefix length"),
        ('addresses = ["192.0.2.1000/24"]', "is not an IP address"),
        ('addresses = ["fe80::1%eth0/64"]', "has no prefix length"),
        ('dns = ["fe80::1%eth0\\nDHCP=no"]', "has a scope"),
        ('gateways = ["192.0.2.1"]', "needs uplink.addresses"),
        ('domains = ["a b"]', "is not a domain"),
        ("dhcp = false", "nobody would reach the node"),
        ("[[uplink.vlans]]\nvlan = 4094\ndhcp = true", "has VLAN 4094 already"),
        ("[[uplink.vlans]]\nvlan = 200", "needs addresses, or dhcp = true"),
        ("[[uplink.vlans]]\nvlan = 200\ndhcp = true\nmtu = 9000", "mtu must be 1280 to 1500"),
        ('[[uplink.vlans]]\nvlan = 200\naddresses = [""]', "uplink.vlans 1"),
        ("nic = []", "there is no setting uplink.nic"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(f"[uplink]\n{text}\n", "node.toml")


@pytest.mark.parametrize(
    ("network", "uplink", "problem"),
    [
        ("management_vlan = 4094", "vlan = 99", "network.management_vlan 4094"),
        ("default_vlan = 200", "[[uplink.vlans]]\nvlan = 200\ndhcp = true", "VLAN 200 is the node"),
    ],
)
def test_no_vm_can_be_in_a_vlan_of_the_node(network: str, uplink: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(f'[network]\nbridge = "br0"\n{network}\n[uplink]\n{uplink}\n', "node.toml")


def test_the_nodes_vlan_may_be_the_management_vlan() -> None:
    text = '[network]\nbridge = "br0"\nmanagement_vlan = 99\n[uplink]\nvlan = 99\n'
    assert parse(text, "node.toml").uplink.own_vid == 99
