"""The network of the node's operating system, under the real systemd-networkd, udev and DHCP.

Two of the VM's NICs are the node's, the second one the faster; two are a switch's; one poses as a
BMC's on USB.
"""

import fcntl
import json
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guests import cache
from guests.testvm import MONITOR, NICS
from network.facts import MANAGEMENT, master, vlans_of, wait_until
from network.frames import ETH_LLDP, LLDP_GROUP, Frame
from network.namespaces import bridge, ip
from network.wire import Wire

from qemu_node.host.process.command import ProcessError, run_blocking

pytestmark = [pytest.mark.needs_vlans, pytest.mark.needs_test_vm, pytest.mark.timeout(400)]

PAGE = cache.REPO / "docs" / "network.md"
NODE_TOML = Path("/etc/qemu-node/node.toml")
RECORD = Path("/var/lib/qemu-node/uplink-state.json")
NIC1, NIC2 = "52:54:00:0a:00:01", "52:54:00:0a:00:02"
SWITCH1, SWITCH2 = "52:54:00:0b:00:01", "52:54:00:0b:00:02"
USB = "52:54:00:0c:00:03"
ADDRESS, NAME = "10.99.0.50", "node-7"
TAP = "qn00000000test0"
UNITS = ("systemd-networkd", "qemu-node-address", "qemu-node-uplink")
QEMU_NODE = f"""#!/bin/sh
PYTHONPATH=/opt/site:{cache.REPO}/src exec python3 -m qemu_node "$@"
"""


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


def bond(name: str) -> str:
    """Return an option of the bond; empty: there is no bond."""
    path = Path("/sys/class/net/bond0/bonding") / name
    return path.read_text().strip() if path.exists() else ""


def addresses() -> list[str]:
    """Return the MAC addresses of bridge and bond."""
    return [Path(f"/sys/class/net/{name}/address").read_text().strip() for name in ("br0", "bond0")]


def plug(mac: str, *, has_link: bool) -> None:
    """Plug a NIC of this VM in or out, and wait until it knows."""
    device = f"nic{list(NICS).index(mac)}"
    MONITOR.write_text(f"set_link {device} {'on' if has_link else 'off'}\n")
    carrier = Path(f"/sys/class/net/{nic(mac)}/carrier")
    wait_until(lambda: carrier.read_text() == f"{has_link:d}\n", f"the link of {device}")


def is_failed(unit: str) -> bool:
    return said("systemctl", "show", "--property=ActiveState", unit) == "ActiveState=failed\n"


def start_network() -> None:
    run_blocking(["systemctl", "start", "systemd-networkd"], timeout_s=150)


def stop_network() -> None:
    """Bring the network into the state in which the machine starts."""
    run_blocking(["systemctl", "stop", "systemd-networkd.socket", "systemd-networkd",
                  "qemu-node-address", "qemu-node-uplink"])  # fmt: skip
    run_blocking(["systemctl", "reset-failed"])
    ip("link del br0\nlink del bond0")
    shutil.rmtree("/run/systemd/network", ignore_errors=True)


def has_own_vlans(*vids: int) -> bool:
    return master("bond0") == "br0" and vlans_of("bond0") == vlans_of("br0") == set(vids)


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """Lay the files over the VM's root, as the OS build does, with a switch outside; start it."""
    run_blocking(["udevadm", "settle"], timeout_s=60)
    usb = f'SUBSYSTEM=="net", ATTR{{address}}=="{USB}", ENV{{ID_BUS}}="usb"\n'
    Path("/etc/udev/rules.d/79-usb.rules").write_text(usb)
    program = Path("/usr/bin/qemu-node")
    program.write_text(QEMU_NODE)
    program.chmod(0o755)
    # The switch's NICs will be gone into its namespace: the first boot need not wait for them.
    places = (Path(f"/sys/class/net/{nic(mac)}/device") for mac in (SWITCH1, SWITCH2))
    mute = [str(place.resolve().parent.relative_to("/sys/devices")) for place in places]
    RECORD.parent.mkdir(parents=True)
    RECORD.write_text(json.dumps({"mute": mute}))
    run_blocking(["sh", "-ec", install_commands()], timeout_s=60)
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
    dhcp = ["ip", "netns", "exec", "switch", "dnsmasq", "--port=0", "--interface=sw",
            "--bind-interfaces", "--dhcp-range=10.99.0.100,10.99.0.110", "--dhcp-authoritative",
            f"--dhcp-host={NIC1},{ADDRESS},{NAME}", "--dhcp-leasefile=/run/test-leases",
            "--pid-file=/run/test-dnsmasq.pid"]  # fmt: skip
    run_blocking(dhcp)
    start_network()
    wait_until(has_address, "br0's address by DHCP", timeout_s=90)
    yield
    os.kill(int(Path("/run/test-dnsmasq.pid").read_text()), 15)


def install_commands() -> str:
    """Return the commands of the page, but for the packages, which the VM has, and the reboot."""
    _, _, rest = PAGE.read_text().partition("## Prerequisites")
    commands = rest.split("```\n")[1]
    assert all(unit in commands for unit in UNITS)
    kept = [
        line
        for line in commands.splitlines()
        if not line.startswith(("apt ", "systemctl disable networking", "reboot"))
    ]
    return f"cd {cache.REPO}\n" + "\n".join(kept)


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


def network_states() -> set[str]:
    """Return what networkd says of the devices of the node's network."""
    try:
        links = json.loads(said("networkctl", "--json=short", "list"))["Interfaces"]
    except ProcessError:
        return {"missing"}
    states = {link["Name"]: link["AdministrativeState"] for link in links}
    return {states.get(name, "missing") for name in ("br0", "bond0", nic(NIC1))}


def settle() -> None:
    """Wait until networkd has done all that it was told to."""
    run_blocking(["udevadm", "settle"], timeout_s=60)
    wait_until(lambda: network_states() == {"configured"}, "networkd to have configured all links")
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
    assert addresses() == [NIC1, NIC1]
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


def test_the_fastest_nic_leads(node: None) -> None:
    wait_until(lambda: bond("active_slave") == nic(NIC2), "the faster NIC to lead")
    assert bond("primary") == nic(NIC2)


def test_the_other_nic_goes_on_while_the_first_is_unplugged_and_the_node_is_online(
    node: None,
) -> None:
    plug(NIC2, has_link=False)
    wait_until(lambda: bond("active_slave") == nic(NIC1), "the slower NIC to go on")
    assert has_address()
    wait = "/usr/lib/systemd/systemd-networkd-wait-online"
    run_blocking([wait, "--interface=br0", "--timeout=30"], timeout_s=90)
    plug(NIC2, has_link=True)
    wait_until(lambda: bond("active_slave") == nic(NIC2), "the faster NIC to lead again")


def test_a_node_without_a_link_waits_for_its_bridge_only_and_not_for_long(node: None) -> None:
    command = said("systemctl", "show", "--property=ExecStart", "systemd-networkd-wait-online")
    assert "--interface=br0 --timeout=30 ; ignore_errors=yes ;" in command
    boot = said("systemctl", "show", "--property=Before", "qemu-node-uplink")
    assert "network-online.target" in boot


def test_restarts_of_networkd_without_a_link_leave_the_address(node: None) -> None:
    for mac in (NIC1, NIC2):
        plug(mac, has_link=False)
    try:
        for _ in range(3):
            # systemd 257 may make another address at every second restart: its issue 42457.
            assert addresses() == [NIC1, NIC1]
            run_blocking(["systemctl", "restart", "systemd-networkd"], timeout_s=60)
            wait_until(
                lambda: not network_states() & {"missing", "pending", "initialized", "unmanaged"},
                "networkd to have looked at its devices",
            )
    finally:
        for mac in (NIC1, NIC2):
            plug(mac, has_link=True)
    settle()
    assert addresses() == [NIC1, NIC1]


def test_a_vlan_that_the_uplink_cannot_have_is_a_failed_unit(node: None) -> None:
    quick = Path("/run/systemd/system/qemu-node-uplink.service.d/quick.conf")
    quick.parent.mkdir(parents=True)
    quick.write_text(
        "[Unit]\nStartLimitBurst=2\n[Service]\nEnvironmentFile=\nEnvironment=VLAN=4095\n"
    )
    run_blocking(["systemctl", "daemon-reload"])
    run_blocking(["systemctl", "restart", "qemu-node-uplink"], check=False, timeout_s=60)
    wait_until(lambda: is_failed("qemu-node-uplink"), "the unit to have failed")
    shutil.rmtree(quick.parent)
    run_blocking(["systemctl", "daemon-reload"])
    run_blocking(["systemctl", "reset-failed", "qemu-node-uplink"])
    run_blocking(["systemctl", "restart", "qemu-node-uplink"], timeout_s=60)
    assert has_own_vlans(MANAGEMENT)


def test_wrong_settings_are_a_failed_unit_and_the_network_stays_as_it_is(node: None) -> None:
    NODE_TOML.parent.mkdir(exist_ok=True)
    NODE_TOML.write_text('[uplink]\nmode = "fast"\n')
    before = {path: path.read_text() for path in Path("/run/systemd/network").rglob("*.*")
              if path.is_file()}  # fmt: skip
    run_blocking(["systemctl", "restart", "qemu-node-address"], check=False, timeout_s=90)
    assert is_failed("qemu-node-address")
    assert "uplink.mode" in said("qemu-node", "os", "network")
    NODE_TOML.unlink()
    after = {path: path.read_text() for path in Path("/run/systemd/network").rglob("*.*")
             if path.is_file()}  # fmt: skip
    assert before == after


def test_a_nic_that_comes_late_and_with_another_name_leaves_address_and_bond_as_they_were(
    node: None,
) -> None:
    leading = Path(f"/sys/class/net/{nic(NIC1)}/device").resolve().name
    rename = Path("/etc/systemd/network/10-upgrade.link")
    rename.write_text(f"[Match]\nPermanentMACAddress={NIC1}\n[Link]\nName=upgrade0np0\n")
    stop_network()
    driver = Path("/sys/bus/virtio/drivers/virtio_net")
    (driver / "unbind").write_text(leading)
    try:
        start_network()
        wait_until(has_address, "the address of the NIC that is not there")
        assert addresses() == [NIC1, NIC1]
    finally:
        (driver / "bind").write_text(leading)
    run_blocking(["udevadm", "settle"], timeout_s=60)
    wait_until(lambda: master("upgrade0np0") == "bond0", "the late NIC to be in the bond")
    settle()
    assert addresses() == [NIC1, NIC1]
    assert bond("primary") == nic(NIC2)
    rename.unlink()


def page_settings(*titles: str) -> str:
    """Return what docs/network.md says below titles, as one table."""
    lines = ["[uplink]"]
    for title in titles:
        _, _, rest = PAGE.read_text().partition(f"\n**{title}**")
        lines += [line for line in rest.split("```toml\n")[1].partition("```")[0].splitlines()
                  if line != "[uplink]"]  # fmt: skip
    return "\n".join(lines) + "\n"


def test_what_the_page_says_about_addresses_nics_and_a_second_vlan_works(node: None) -> None:
    assert said("udevadm", "info", "--query=property", "--property=ID_PATH", "--value",
                f"/sys/class/net/{nic(NIC2)}") == "pci-0000:00:04.0\n"  # fmt: skip
    NODE_TOML.write_text(
        page_settings(
            "A static address",
            "Only some NICs in the bond",
            "The NIC that active-backup prefers",
            "A second VLAN of the node",
        )
    )
    stop_network()
    start_network()
    wait_until(
        lambda: (
            [master(nic(mac)) for mac in (NIC1, NIC2)] == ["bond0", "bond0"]
            and bond("primary") == nic(NIC1)
        ),
        "both NICs in the bond, the first one preferred",
    )
    wait_until(lambda: has_own_vlans(MANAGEMENT, 200), "both VLANs on the bridge and its uplink")
    wait_until(
        lambda: all(
            f"|-- {address}\n" in Path("/proc/net/fib_trie").read_text()
            for address in ("192.0.2.10", "198.51.100.10")
        ),
        "both static addresses",
    )
    assert not has_address()


def test_lacp_a_tagged_vlan_and_jumbo_frames_are_settings(node: None) -> None:
    ip("link del br0.200")
    NODE_TOML.write_text('[uplink]\nmode = "lacp"\nvlan = 99\nmtu = 9000\n')
    stop_network()
    ip(
        """link set sw type bridge vlan_filtering 1 vlan_default_pvid 0
        link set sw mtu 9000
        link set port1 mtu 9000
        link set port2 mtu 9000""",
        namespace="switch",
    )
    bridge(
        """vlan add dev sw vid 99 pvid untagged self
        vlan add dev port1 vid 99
        vlan add dev port2 vid 99""",
        namespace="switch",
    )
    start_network()
    wait_until(lambda: bond("mode").startswith("802.3ad"), "an LACP bond")
    wait_until(lambda: has_own_vlans(99), "the node's VLAN on the bridge and its uplink")
    # The switch does not speak LACP: one NIC works alone.
    wait_until(has_address, "the address by DHCP in VLAN 99", timeout_s=90)
    mtus = {Path(f"/sys/class/net/{name}/mtu").read_text() for name in ("br0", "bond0", nic(NIC1))}
    assert mtus == {"9000\n"}
