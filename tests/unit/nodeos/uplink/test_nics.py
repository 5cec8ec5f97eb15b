from pathlib import Path

import pytest
from unit.nodeos.uplink.machines import MAC1, MAC2, MAC3, Tree

from qemu_node.nodeos.uplink.nics import fastest_mode, pci_of, permanent_addresses, read_machine


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_nic_has_a_place_that_does_not_depend_on_its_name(tree: Tree) -> None:
    tree.add_nic("eth9", MAC1.upper(), tree.add_function(3, driver="e1000e"))
    [nic] = read_machine(tree.root, "").nics
    assert (nic.name, nic.mac, nic.pci) == ("eth9", MAC1, "0000:03:00.0")
    assert nic.place == "pci0000:00/0000:00:03.0/0000:03:00.0/0"


def test_only_physical_ethernet_nics_count(tree: Tree) -> None:
    function = tree.add_function(3)
    tree.add_nic("br0", MAC1, None)
    tree.add_nic("ib0", MAC1, function, type_=32)
    (tree.add_nic("wlp3s0", MAC1, function) / "phy80211").mkdir()
    tree.add_nic("zero", "00:00:00:00:00:00", function)
    assert read_machine(tree.root, "").nics == ()


def test_nics_on_usb_and_virtual_functions_are_known_as_such(tree: Tree) -> None:
    usb = tree.root / "sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0"
    usb.mkdir(parents=True)
    tree.add_nic("enx1", MAC1, usb)
    tree.add_nic("enp3s0v0", MAC2, tree.add_function(3, is_virtual=True))
    tree.add_nic("enp4s0", MAC3, tree.add_function(4))
    machine = read_machine(tree.root, "")
    assert {nic.name: (nic.is_usb, nic.is_virtual_function) for nic in machine.nics} == {
        "enx1": (True, False),
        "enp3s0v0": (False, True),
        "enp4s0": (False, False),
    }
    assert [function.pci for function in machine.functions] == ["0000:04:00.0"]


def test_a_name_is_final_once_udev_has_written_its_record(tree: Tree) -> None:
    (tree.add_nic("eth0", MAC1, tree.add_function(3)) / "ifindex").write_text("7\n")
    data = tree.root / "run/udev/data"
    data.mkdir(parents=True)
    assert [nic.has_final_name for nic in read_machine(tree.root, "").nics] == [True]  # no udev
    (tree.root / "run/udev/control").touch()
    assert [nic.has_final_name for nic in read_machine(tree.root, "").nics] == [False]
    (data / "n7").touch()
    assert [nic.has_final_name for nic in read_machine(tree.root, "").nics] == [True]


def test_a_controller_without_a_nic_is_known(tree: Tree) -> None:
    tree.add_nic("enp3s0", MAC1, tree.add_function(3, driver="ice"))
    tree.add_function(4, driver="mlx5_core")
    tree.add_function(5)
    tree.add_function(6, driver="vfio-pci")  # a VM's
    tree.add_function(7, class_="0x010802")  # NVMe
    found = {f.pci: (f.has_nic, f.has_driver) for f in read_machine(tree.root, "").functions}
    assert found == {
        "0000:03:00.0": (True, True),
        "0000:04:00.0": (False, True),
        "0000:05:00.0": (False, False),
    }


def test_the_permanent_address_counts_while_a_bond_has_given_another_one(tree: Tree) -> None:
    tree.add_nic("eno1", MAC2, tree.add_function(3))
    links = f'[{{"ifname": "lo"}}, {{"ifname": "eno1", "permaddr": "{MAC1}"}}]'
    assert [nic.mac for nic in read_machine(tree.root, links).nics] == [MAC1]


def test_what_ip_says_may_be_nothing(tree: Tree) -> None:
    assert permanent_addresses("") == permanent_addresses("Object is not JSON") == {}


@pytest.mark.parametrize(
    ("place", "pci"),
    [
        ("pci0000:00/0000:00:04.0/virtio1/0", "0000:00:04.0"),
        ("pci0000:00/0000:00:1c.0/0000:03:00.1/1", "0000:03:00.1"),
        ("platform/1a40000.ethernet/0", ""),
    ],
)
def test_the_pci_address_is_the_innermost_one(place: str, pci: str) -> None:
    assert pci_of(place) == pci


TWISTED_PAIR = """Settings for eno1:
\tSupported ports: [ TP ]
\tSupported link modes:   10baseT/Half 10baseT/Full
\t                        100baseT/Half 100baseT/Full
\t                        1000baseT/Full
\tSupported pause frame use: Symmetric
\tAdvertised link modes:  10baseT/Half 10baseT/Full 40000baseKR4/Full
\tSpeed: Unknown!
\tLink detected: no
"""
VIRTIO = """Settings for enp0s4:
\tSupported ports: [  ]
\tSupported link modes:   Not reported
\tSpeed: 10000Mb/s
"""


@pytest.mark.parametrize(
    ("text", "mbit"), [(TWISTED_PAIR, 1000), (VIRTIO, 10000), ("", 0), ("netlink error: no", 0)]
)
def test_a_nic_is_as_fast_as_its_fastest_mode_although_it_is_down(text: str, mbit: int) -> None:
    assert fastest_mode(text) == mbit
