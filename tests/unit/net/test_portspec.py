from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.portspec import TAP_NAME, TAP_PREFIX, PortSpec, tap_name


def port(**settings: Any) -> PortSpec:
    return PortSpec(
        vm_id="web-0123456789ab",
        index=0,
        ifname="qn0123456789a00",
        mac="02:00:00:00:00:a1",
        **settings,
    )


def test_a_port_has_the_vlans_of_its_untagged_or_of_its_tagged_frames() -> None:
    assert port(vlan=30).vids == {30}
    assert port(vlan=None, trunk=(30, 40)).vids == {30, 40}


@pytest.mark.parametrize(
    "settings",
    [
        {"vlan": None},
        {"vlan": 30, "trunk": (40,)},
        {"vlan": 1},
        {"vlan": 0},
        {"vlan": 4095},
        {"vlan": None, "trunk": (30, 5000)},
    ],
)
def test_what_the_kernel_would_do_by_halves_is_no_port(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="VLAN"):
        port(**settings)


@given(st.text(max_size=40), st.integers(0, 255))
def test_a_name_fits_the_kernel_and_the_prefix_that_units_match(vm_id: str, index: int) -> None:
    name = tap_name(vm_id, index)
    assert len(name.encode()) == 15
    assert name.startswith(TAP_PREFIX)
    assert TAP_NAME.fullmatch(name)
    assert name == tap_name(vm_id, index)


def test_vms_and_their_nics_have_names_of_their_own() -> None:
    names = {tap_name(f"web-{vm:012x}", nic) for vm in range(200) for nic in range(8)}
    assert len(names) == 1600


@pytest.mark.parametrize("index", [-1, 256])
def test_an_index_that_would_make_the_name_longer_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="index"):
        tap_name("web-0123456789ab", index)
