import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.cli.doctor.networkunits import Unit, find_taker

TAP = "qn0123456789a00"
OURS = Unit(
    path="/usr/lib/systemd/network/00-qn-ports.network",
    text="# ours\n[Match]\nName=qn*\n\n[Link]\nUnmanaged=yes\n",
)


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
    taker = find_taker([unit(match)], TAP)
    assert taker is not None
    assert not taker.is_unmanaged


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
    assert find_taker([unit(match)], TAP) is None


def test_the_unit_that_sorts_first_decides_wherever_it_is() -> None:
    late = unit("Name=*", "/etc/systemd/network/50-all.network")
    early = unit("Name=*", "/etc/systemd/network/00-all.network")
    found = find_taker([late, OURS], TAP)
    assert found is not None
    assert (found.path, found.is_unmanaged) == (OURS.path, True)
    found = find_taker([early, OURS], TAP)
    assert found is not None
    assert (found.path, found.is_unmanaged) == (early.path, False)


def test_an_empty_file_of_the_same_name_masks_a_unit() -> None:
    masked = unit("Name=*", "/usr/lib/systemd/network/50-all.network")
    empty = Unit(path="/etc/systemd/network/50-all.network", text="")
    assert find_taker([empty, masked], TAP) is None
    assert find_taker([masked, empty], TAP) is not None


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    find_taker([Unit(path="/etc/systemd/network/x.network", text=text)], TAP)
