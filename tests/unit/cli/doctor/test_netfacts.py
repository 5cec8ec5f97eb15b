import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.cli.doctor import netfacts
from qemu_node.cli.doctor.netchecks import BridgeState
from qemu_node.cli.doctor.netfacts import Unit, find_tap_unit

TAP = "qn0123456789a00"
OURS = Unit(
    path="/usr/lib/systemd/network/00-qn-ports.network",
    text="# ours\n[Match]\nName=qn*\n\n[Link]\nUnmanaged=yes\n",
)


def write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(f"{text}\n")


def test_a_bridge_is_read_from_sys(tmp_path: Path) -> None:
    assert netfacts.read_bridge("br0", tmp_path) is None
    write(tmp_path / "br0", flags="0x1003", addr_assign_type="3")
    assert netfacts.read_bridge("br0", tmp_path) == BridgeState(is_bridge=False)
    write(tmp_path / "br0" / "bridge", vlan_filtering="1", default_pvid="0")
    assert netfacts.read_bridge("br0", tmp_path) == BridgeState(
        is_bridge=True, is_up=True, filters_vlans=True, default_pvid=0, has_own_address=True
    )


def test_a_flat_bridge_with_the_kernels_defaults_is_seen_as_such(tmp_path: Path) -> None:
    write(tmp_path / "br0", flags="0x1002", addr_assign_type="1")
    write(tmp_path / "br0" / "bridge", vlan_filtering="0", default_pvid="1")
    assert netfacts.read_bridge("br0", tmp_path) == BridgeState(is_bridge=True, default_pvid=1)


def test_an_uplink_is_read_with_its_bond(tmp_path: Path) -> None:
    assert netfacts.read_uplink("bond0", tmp_path) is None
    write(tmp_path / "bond0", carrier="1", ifindex="0")
    state = netfacts.read_uplink("bond0", tmp_path)
    assert state is not None
    assert (state.master, state.has_carrier, state.miimon_ms) == ("", True, None)
    write(tmp_path / "bond0" / "bonding", miimon="0")
    (tmp_path / "br0").mkdir()
    (tmp_path / "bond0" / "master").symlink_to(tmp_path / "br0")
    state = netfacts.read_uplink("bond0", tmp_path)
    assert state is not None
    assert (state.master, state.miimon_ms) == ("br0", 0)


def test_bridge_netfilter_is_what_is_switched_on(tmp_path: Path) -> None:
    assert netfacts.read_bridge_netfilter(tmp_path / "absent") == ()
    write(tmp_path, **{"bridge-nf-call-iptables": "1", "bridge-nf-call-ip6tables": "0"})
    assert netfacts.read_bridge_netfilter(tmp_path) == ("bridge-nf-call-iptables",)


def test_units_are_read_from_all_directories_those_with_precedence_first(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "a.network").write_text("usr")
    (tmp_path / "usr" / "b.link").write_text("no network unit")
    (tmp_path / "etc" / "a.network").symlink_to("/dev/null")
    dirs = [tmp_path / "etc", tmp_path / "absent", tmp_path / "usr"]
    assert [unit.text for unit in netfacts.read_units(dirs)] == ["", "usr"]


def test_a_library_that_is_missing_is_no_error() -> None:
    assert netfacts.has_library("libc.so.6")
    assert not netfacts.has_library("libno-such-thing.so.9")


def test_a_module_is_missed_unless_it_is_loaded_built_in_or_can_be_loaded(tmp_path: Path) -> None:
    names = ("ifb", "act_mirred", "cls_matchall", "absent")
    assert netfacts.missing_modules(names, tmp_path) == ()
    write(
        tmp_path / "lib" / "modules" / os.uname().release,
        **{
            "modules.dep": "kernel/drivers/net/ifb.ko.xz:\nkernel/net/other.ko: kernel/ifb.ko",
            "modules.builtin": "kernel/net/sched/act-mirred.ko",
        },
    )
    (tmp_path / "sys" / "module" / "cls_matchall").mkdir(parents=True)
    assert netfacts.missing_modules(names, tmp_path) == ("absent",)


def test_multicast_snooping_is_seen(tmp_path: Path) -> None:
    write(tmp_path / "br0", flags="0x1003", addr_assign_type="3")
    write(tmp_path / "br0" / "bridge", vlan_filtering="1", default_pvid="0", multicast_snooping="1")
    state = netfacts.read_bridge("br0", tmp_path)
    assert state is not None
    assert state.snoops_multicast


def unit(match: str, path: str = "/etc/systemd/network/50-x.network") -> Unit:
    return Unit(path=path, text=f"[Match]\n{match}\n[Network]\nDHCP=yes\n")


@pytest.mark.parametrize(
    "match",
    [
        "Name=*",
        "Name=e* q*",
        "Type=ether",
        "Name=!br0 bond0",
        "Kind=tun",
        "Driver=t*",
        "Type=ether\nName=q*",
        "Name=e*\nName=\nName=*",
        "Name=e* \\\n  qn*",
    ],
)
def test_a_unit_whose_conditions_hold_for_a_tap_takes_it(match: str) -> None:
    tap_unit = find_tap_unit([unit(match)], TAP)
    assert tap_unit is not None
    assert not tap_unit.is_unmanaged


@pytest.mark.parametrize(
    "match",
    [
        "",
        "Name=en*",
        "Kind=!*",
        "Type=ether\nKind=!*",
        "Name=!qn*",
        "MACAddress=02:00:00:00:00:01",
        "Property=ID_BUS=pci",
        "Name=*\nPath=pci-*",
        "# Name=*",
        "Type=wlan",
    ],
)
def test_a_unit_for_other_devices_does_not(match: str) -> None:
    assert find_tap_unit([unit(match)], TAP) is None


def test_the_unit_that_sorts_first_decides_wherever_it_is() -> None:
    late = unit("Name=*", "/etc/systemd/network/50-all.network")
    early = unit("Name=*", "/etc/systemd/network/00-all.network")
    found = find_tap_unit([late, OURS], TAP)
    assert found is not None
    assert (found.path, found.is_unmanaged) == (OURS.path, True)
    found = find_tap_unit([early, OURS], TAP)
    assert found is not None
    assert (found.path, found.is_unmanaged) == (early.path, False)


def test_an_empty_file_of_the_same_name_masks_a_unit() -> None:
    masked = unit("Name=*", "/usr/lib/systemd/network/50-all.network")
    empty = Unit(path="/etc/systemd/network/50-all.network", text="")
    assert find_tap_unit([empty, masked], TAP) is None
    assert find_tap_unit([masked, empty], TAP) is not None


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    find_tap_unit([Unit(path="/etc/systemd/network/x.network", text=text)], TAP)
