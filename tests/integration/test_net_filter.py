"""The filter in the real kernel, through the real libnftables."""

import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from integration.persistenttable import leave_persistent_table
from network.namespaces import ip, private_network

from qemu_node.host.sysctl import write_sysctl
from qemu_node.net.errors import NftError
from qemu_node.net.filter.elements import Element, elements
from qemu_node.net.filter.filtertable import FilterTable
from qemu_node.net.filter.nft import Nft
from qemu_node.net.filter.ruleset import MAP_FRAMES, Reason
from qemu_node.net.portspec import PortSpec

pytestmark = [pytest.mark.needs_root]

PORT = PortSpec(
    vm_id="web-0123456789ab",
    index=0,
    ifname="qn0123456789a00",
    mac="02:00:00:00:00:a1",
    vlan=None,
    trunk=(30, 40),
    addresses=("10.0.0.0/8", "10.1.0.0/16", "192.0.2.5/32", "2001:db8::/64", "2001:db9::1/128"),
)
PLAIN = PortSpec(
    vm_id="db-0123456789ab", index=0, ifname="qn0123456789b00", mac="02:00:00:00:00:b1", vlan=30
)


@pytest.fixture
def nft() -> Iterator[Nft]:
    with private_network():
        context = Nft()
        yield context
        context.close()


@pytest.fixture
def table(nft: Nft) -> FilterTable:
    loaded = FilterTable(nft)
    loaded.load()
    return loaded


def content(table: FilterTable) -> frozenset[Element]:
    found = table.read()
    assert found is not None
    return found.elements


def test_elements_are_listed_as_they_were_added(table: FilterTable) -> None:
    table.add(elements(PORT))
    assert content(table) == frozenset(elements(PORT))
    table.add(elements(PORT))
    table.add(elements(PLAIN))
    table.remove(elements(PORT))
    assert content(table) == frozenset(elements(PLAIN))


def test_elements_are_removed_be_they_all_there_or_not(table: FilterTable) -> None:
    table.add(elements(PORT)[2:])
    table.remove(elements(PORT))
    table.remove(elements(PORT))
    assert content(table) == frozenset()


def test_a_transaction_with_a_fault_does_nothing(nft: Nft, table: FilterTable) -> None:
    table.add(elements(PLAIN))
    with pytest.raises(NftError, match="nftables refused"):
        table.change([Element("d_mac", "x"), Element("no_such_set", "x")], [])
    with pytest.raises(NftError, match="syntax error"):
        nft.run("add element bridge qn d_mac { {")
    assert content(table) == frozenset(elements(PLAIN))


def test_an_element_that_leads_elsewhere_is_put_right(nft: Nft, table: FilterTable) -> None:
    wanted = frozenset(elements(PLAIN))
    table.add(wanted)
    key = f'bridge qn frames {{ "{PLAIN.ifname}" . 0x0200000000b10800'
    nft.run(f"delete element {key} }}\nadd element {key} : accept }}\n")
    actual = content(table)
    assert len(actual - wanted) == len(wanted - actual) == 1
    table.change(wanted - actual, actual - wanted)
    assert content(table) == wanted


def test_loading_again_keeps_the_elements(nft: Nft, table: FilterTable) -> None:
    table.add(elements(PORT))
    FilterTable(nft).load()
    assert content(table) == frozenset(elements(PORT))


def test_a_table_of_another_version_is_replaced_and_lets_nothing_through(
    nft: Nft, table: FilterTable
) -> None:
    nft.run(
        "delete table bridge qn\nadd table bridge qn\nadd set bridge qn src_raw { type mark; }\n"
    )
    table.load()
    assert content(table) == frozenset()
    table.add(elements(PORT))


def test_a_table_that_a_newer_nft_made_to_persist_is_taken_over(nft: Nft) -> None:
    if not leave_persistent_table("bridge", "qn"):
        pytest.skip("this kernel cannot make tables persist")
    table = FilterTable(nft)
    table.load()
    table.add(elements(PORT))
    assert content(table) == frozenset(elements(PORT))


def test_a_table_that_somebody_removed_is_missed(nft: Nft, table: FilterTable) -> None:
    nft.run("delete table bridge qn\n")
    assert table.read() is None


@pytest.mark.parametrize(
    "change",
    [
        "flush table bridge qn",
        "insert rule bridge qn pre accept",
        "add chain bridge qn before { type filter hook prerouting priority -300; policy accept; }",
    ],
)
def test_rules_that_somebody_changed_are_noticed_and_loaded_again(
    nft: Nft, table: FilterTable, change: str
) -> None:
    table.add(elements(PORT))
    table.load()
    assert table.is_intact(table.read())
    nft.run(change)
    assert not table.is_intact(table.read())
    table.load()
    assert table.is_intact(table.read())
    assert content(table) == frozenset(elements(PORT))
    assert not table.is_intact(None)


def test_other_tables_stay_as_they_are(nft: Nft) -> None:
    nft.run("add table inet operator\nadd chain inet operator own\n")
    before = nft.list_table("inet", "operator")
    table = FilterTable(nft)
    table.load()
    table.add(elements(PORT))
    table.remove(elements(PORT))
    assert nft.list_table("inet", "operator") == before


def frame(source: str, payload: bytes = b"", ethertype: int = 0x88B5) -> bytes:
    addresses = b"\xff" * 6 + bytes.fromhex(source.replace(":", ""))
    return (addresses + struct.pack("!H", ethertype) + payload).ljust(60, b"\0")


def received(end: socket.socket, marker: bytes) -> list[bytes]:
    """Return the local experimental frames, and those of ARP, until the one with `marker`."""
    found: list[bytes] = []
    deadline = time.monotonic() + 30
    while not found or marker not in found[-1]:
        assert time.monotonic() < deadline
        data = end.recv(2000)
        if data[12:14] in (b"\x88\xb5", b"\x08\x06"):
            found.append(data)
    return found


def test_a_guests_frames_pass_from_its_own_address_and_others_are_counted(nft: Nft) -> None:
    # Devices with the names of TAPs, on a bridge: the rules go by names. Nothing speaks by itself.
    write_sysctl("net/ipv6/conf/default/disable_ipv6", 1)
    ip(
        f"""link add br0 type bridge
        link add {PLAIN.ifname} type veth peer name guest
        link add lan type veth peer name wire
        link set {PLAIN.ifname} master br0 up
        link set lan master br0 up
        link set guest up
        link set wire up
        link set br0 up"""
    )
    table = FilterTable(nft)
    guest = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    with guest, wire:
        guest.bind(("guest", 0))
        wire.bind(("wire", 0))
        wire.settimeout(30)
        wait_for_forwarding(guest, wire)
        table.load()
        guest.send(frame(PLAIN.mac, b"no element yet"))
        table.add([element for element in elements(PLAIN) if element.set_name != MAP_FRAMES])
        guest.send(frame(PLAIN.mac, b"not checked", 0x0806))
        table.add(elements(PLAIN))
        guest.send(frame("02:00:00:00:00:ff", b"a lie"))
        guest.send(frame(PLAIN.mac, b"the truth"))
        assert [data[14:23] for data in received(wire, b"the truth")] == [b"the truth"]
    counted: Any = table.read()
    assert counted.drops[PLAIN.ifname] == {reason: int(reason is Reason.MAC) for reason in Reason}


def wait_for_forwarding(guest: socket.socket, wire: socket.socket) -> None:
    """Send until a frame arrives: a bridge forwards nothing while its ports are new."""
    wire.settimeout(0.1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        guest.send(frame("02:00:00:00:00:01", b"early"))
        try:
            if b"early" in wire.recv(2000):
                break
        except TimeoutError:
            continue
    wire.settimeout(30)
    guest.send(frame("02:00:00:00:00:01", b"last of these"))
    received(wire, b"last of these")
