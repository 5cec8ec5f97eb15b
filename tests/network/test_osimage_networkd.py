"""The network of the node's operating system, under the real systemd-networkd, udev and DHCP.

Two of the VM's NICs are the node's, two are a switch's; one poses as a BMC's on USB.
"""

import fcntl
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guests import cache
from network.facts import MANAGEMENT, master, vlans_of, wait_until
from network.frames import ETH_LLDP, LLDP_GROUP, Frame
from network.namespaces import bridge, ip
from network.wire import Wire

from qemu_node.host.process.command import ProcessError, run_blocking

pytestmark = [pytest.mark.needs_vlans, pytest.mark.needs_test_vm, pytest.mark.timeout(240)]

FILES = cache.REPO / "osimage" / "files"
NIC1, NIC2 = "52:54:00:0a:00:01", "52:54:00:0a:00:02"
SWITCH1, SWITCH2 = "52:54:00:0b:00:01", "52:54:00:0b:00:02"
USB = "52:54:00:0c:00:03"
ADDRESS, NAME = "10.99.0.50", "node-7"
TAP = "qn00000000test0"
UNITS = ("systemd-networkd", "qemu-node-address", "qemu-node-uplink")


def said(*argv: str) -> str:
    return run_blocking(argv, timeout_s=60).stdout.decode()


def nic(mac: str) -> str:
    """Return the name of the NIC that was made with an address."""
    for link in json.loads(said("ip", "-json", "-details", "link", "show")):
        is_physical = "info_kind" not in link.get("linkinfo", {})
        if is_physical and mac == link.get("permaddr", link["address"]):
            return str(link["ifname"])
    raise AssertionError(f"no NIC has {mac}")


def has_address() -> bool:
    return f"|-- {ADDRESS}\n" in Path("/proc/net/fib_trie").read_text()


def has_name() -> bool:
    return os.uname().nodename == NAME


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """Lay the files over the VM's root, as the OS build does, with a switch outside; start it."""
    run_blocking(["udevadm", "settle"], timeout_s=60)
    usb = f'SUBSYSTEM=="net", ATTR{{address}}=="{USB}", ENV{{ID_BUS}}="usb"\n'
    Path("/etc/udev/rules.d/90-usb.rules").write_text(usb)
    run_blocking(["udevadm", "control", "--reload"])
    run_blocking(["udevadm", "trigger", "--settle", "--action=add", f"/sys/class/net/{nic(USB)}"])
    ip("netns add switch")
    for number, mac in enumerate((SWITCH1, SWITCH2), start=1):
        ip(f"link set {nic(mac)} name port{number} netns switch")
    ip(
        """link add sw type bridge mcast_snooping 0
        link set port1 master sw up
        link set port2 master sw up
        link set sw up
        addr add 10.99.0.1/24 dev sw""",
        namespace="switch",
    )
    Path("/etc/hostname").unlink(missing_ok=True)
    run_blocking(["cp", "-r", f"{FILES}/usr", "/"])
    run_blocking(["systemctl", "daemon-reload"])
    run_blocking(["systemctl", "enable", "--quiet", *UNITS])
    dhcp = ["ip", "netns", "exec", "switch", "dnsmasq", "--port=0", "--interface=sw",
            "--bind-interfaces", "--dhcp-range=10.99.0.100,10.99.0.110", "--dhcp-authoritative",
            f"--dhcp-host={NIC1},{ADDRESS},{NAME}", "--dhcp-leasefile=/run/test-leases",
            "--pid-file=/run/test-dnsmasq.pid"]  # fmt: skip
    run_blocking(dhcp)
    run_blocking(["systemctl", "start", "systemd-networkd"], timeout_s=90)
    wait_until(has_address, "br0's address by DHCP", timeout_s=90)
    yield
    os.kill(int(Path("/run/test-dnsmasq.pid").read_text()), 15)


@contextmanager
def vm_port(vid: int) -> Iterator[None]:
    """Hold a TAP in `vid` as the driver does, and the VLAN on the uplink."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        # TUNSETIFF: IFF_TAP | IFF_NO_PI (linux/if_tun.h)
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", TAP.encode(), 0x1002))
        ip(f"link set {TAP} master br0\nlink set {TAP} up")
        bridge(f"vlan add dev {TAP} vid {vid} pvid untagged\nvlan add dev bond0 vid {vid}")
        yield
        bridge(f"vlan del dev bond0 vid {vid}")
    finally:
        os.close(descriptor)


def assert_port_is_untouched(vid: int) -> None:
    assert master(TAP) == "br0"
    assert vlans_of(TAP) == {vid}
    assert vlans_of("bond0") == {MANAGEMENT, vid}


def settle() -> None:
    """Wait until networkd has done all that it was told to."""
    run_blocking(["udevadm", "settle"], timeout_s=60)

    def is_configured() -> bool:
        try:
            links = json.loads(said("networkctl", "--json=short", "list"))["Interfaces"]
        except ProcessError:
            return False
        states = {link["Name"]: link["AdministrativeState"] for link in links}
        return all(states.get(name) == "configured" for name in ("br0", "bond0", nic(NIC1)))

    wait_until(is_configured, "networkd to have configured all links")
    wait_until(has_address, "br0's address")
    wait_until(has_name, "the host name of DHCP's option 12")


def test_every_nic_but_those_on_usb_is_in_the_bond(node: None) -> None:
    assert [master(nic(mac)) for mac in (NIC1, NIC2, USB)] == ["bond0", "bond0", ""]
    bond = Path("/sys/class/net/bond0/bonding")
    assert (bond / "mode").read_text().split()[0] == "active-backup"
    assert int((bond / "miimon").read_text()) == 100


def test_the_bridge_filters_vlans_and_gives_a_new_port_none(node: None) -> None:
    options = Path("/sys/class/net/br0/bridge")
    shown = {
        name: (options / name).read_text().strip()
        for name in ("vlan_filtering", "default_pvid", "stp_state", "multicast_snooping")
    }
    assert shown == {
        "vlan_filtering": "1",
        "default_pvid": "0",
        "stp_state": "0",
        "multicast_snooping": "0",
    }
    assert master("bond0") == "br0"
    assert (vlans_of("bond0"), vlans_of("br0")) == ({MANAGEMENT}, {MANAGEMENT})


def test_the_node_has_the_address_of_its_first_nic_and_the_name_that_dhcp_gives(
    node: None,
) -> None:
    addresses = [Path(f"/sys/class/net/{name}/address").read_text().strip()
                 for name in ("br0", "bond0")]  # fmt: skip
    assert addresses == [NIC1, NIC1]
    wait_until(has_name, "the host name of DHCP's option 12")


def test_a_vms_port_changes_neither_address_nor_mtu_of_the_node(node: None) -> None:
    with vm_port(30):
        ip(f"link set {TAP} address 02:00:00:00:00:01 mtu 1280")
        assert Path("/sys/class/net/br0/address").read_text().strip() == NIC1
        assert Path("/sys/class/net/br0/mtu").read_text().strip() == "1500"


def test_networkd_neither_removes_nor_adds_vlans_of_the_uplink(node: None) -> None:
    changed = Path("/etc/systemd/network/40-bond0.network.d/test.conf")
    changed.parent.mkdir(parents=True)
    with vm_port(30):
        changed.write_text("[Link]\nAllMulticast=yes\n")
        run_blocking(["networkctl", "reload"])
        settle()
        assert_port_is_untouched(30)
        run_blocking(["networkctl", "reconfigure", "bond0", "br0"])
        settle()
        assert_port_is_untouched(30)
        run_blocking(["systemctl", "restart", "systemd-networkd"], timeout_s=60)
        settle()
        assert_port_is_untouched(30)
    assert vlans_of("bond0") == {MANAGEMENT}
    shutil.rmtree(changed.parent)


def test_an_uplink_that_was_out_of_the_bridge_gets_the_nodes_vlan_back(node: None) -> None:
    # networkd puts it back by itself, if it is asked to or not, and with no VLAN at all.
    ip("link set bond0 nomaster")
    run_blocking(["networkctl", "reconfigure", "bond0"])
    wait_until(
        lambda: master("bond0") == "br0" and vlans_of("bond0") == {MANAGEMENT},
        "the uplink to be back with its VLAN",
    )


def test_a_catch_all_unit_of_the_operator_leaves_the_vms_ports_alone(node: None) -> None:
    unit = Path("/etc/systemd/network/01-all.network")
    with vm_port(40):
        unit.write_text("[Match]\nName=*\n[Network]\nLinkLocalAddressing=no\n")
        try:
            run_blocking(["networkctl", "reload"])
            wait_until(
                lambda: "01-all" in said("networkctl", "--json=short", "status", nic(USB)),
                "the catch-all unit to have its way elsewhere",
            )
            assert (master(TAP), vlans_of(TAP)) == ("br0", {40})
        finally:
            unit.unlink()
        run_blocking(["networkctl", "reload"])
        run_blocking(["systemctl", "restart", "systemd-networkd"], timeout_s=60)
        settle()
        assert (master(TAP), vlans_of(TAP)) == ("br0", {40})
    # The catch-all took bond0 out of br0; what it did to the node itself is the operator's wish.
    wait_until(lambda: vlans_of("bond0") == {MANAGEMENT}, "the uplink's VLAN after a restart")


def test_switch_and_node_see_each_other_by_lldp(node: None) -> None:
    tlvs = b"\x02\x07\x04" + bytes.fromhex("020000000001") + b"\x04\x06\x05" + b"gi1/7"
    tlvs += b"\x06\x02\x00\x78" + b"\x0a\x06switch" + b"\x00\x00"
    frame = Frame(dst=LLDP_GROUP, src="02:00:00:00:00:01", ethertype=ETH_LLDP, payload=tlvs)
    wire = Wire("port1", namespace="switch")
    try:
        wire.send(frame.to_bytes(b"lldptest"))
        wait_until(lambda: "switch" in said("networkctl", "lldp"), "the switch as a neighbor")
        run_blocking(["networkctl", "reconfigure", nic(NIC1)])  # LLDP speaks at once
        wait_until(
            lambda: any(f"> {LLDP_GROUP} 0x88cc" in arrival.text for arrival in wire.drain()),
            "the node's LLDP",
            timeout_s=60,
        )
    finally:
        wire.close()


def test_lacp_is_one_file_away(node: None) -> None:
    option = Path("/etc/systemd/network/20-bond0.netdev.d/lacp.conf")
    option.parent.mkdir(parents=True)
    shutil.copyfile("/usr/share/qemu-node/network/lacp.conf", option)
    # What a reboot does: the mode of a bond is fixed when it is made.
    run_blocking(["systemctl", "stop", "systemd-networkd.socket", "systemd-networkd"])
    ip("link del br0\nlink del bond0")
    run_blocking(["systemctl", "start", "systemd-networkd"], timeout_s=60)
    mode = Path("/sys/class/net/bond0/bonding/mode")
    wait_until(lambda: mode.exists() and mode.read_text().startswith("802.3ad"), "an LACP bond")
    wait_until(lambda: master(nic(NIC2)) == "bond0", "the NICs to be its ports")
    wait_until(
        lambda: master("bond0") == "br0" and vlans_of("bond0") == {MANAGEMENT},
        "the node's VLAN on the new bond",
    )


def page_commands(title: str) -> str:
    """Return the commands below a title of docs/network.md, for the NICs of this VM."""
    page = (cache.REPO / "docs" / "network.md").read_text()
    _, _, rest = page.partition(f"\n**{title}**")
    commands = rest.split("```\n")[1]
    assert commands.endswith("reboot\n")
    names = {"eno1": nic(NIC1), "eno2": nic(NIC2)}
    return re.sub(r"\beno[12]\b", lambda match: names[match[0]], commands.removesuffix("reboot\n"))


def test_what_the_page_says_about_addresses_nics_and_a_second_vlan_works(node: None) -> None:
    shutil.rmtree("/etc/systemd/network/20-bond0.netdev.d", ignore_errors=True)
    for title in (
        "A static address",
        "Only some NICs in the bond",
        "The NIC that active-backup prefers",
        "A second VLAN of the node",
    ):
        run_blocking(["sh", "-ec", page_commands(title)], timeout_s=60)
    # What a reboot does.
    run_blocking(["systemctl", "stop", "systemd-networkd.socket", "systemd-networkd"])
    ip("link del br0\nlink del bond0")
    run_blocking(["systemctl", "daemon-reload"])
    run_blocking(["systemctl", "start", "systemd-networkd"], timeout_s=60)
    run_blocking(["systemctl", "restart", "qemu-node-storage"], timeout_s=90)
    primary = Path("/sys/class/net/bond0/bonding/primary")
    wait_until(
        lambda: (
            [master(nic(mac)) for mac in (NIC1, NIC2)] == ["bond0", "bond0"]
            and primary.read_text().strip() == nic(NIC2)
        ),
        "both NICs in the bond, the second one preferred",
    )
    wait_until(
        lambda: vlans_of("br0") == vlans_of("bond0") == {MANAGEMENT, 200},
        "both VLANs on the bridge and on its uplink",
    )
    wait_until(
        lambda: all(
            f"|-- {address}\n" in Path("/proc/net/fib_trie").read_text()
            for address in ("192.0.2.10", "198.51.100.10")
        ),
        "both static addresses",
    )
    assert not has_address()
