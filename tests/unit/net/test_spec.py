from typing import Any

import pytest

from qemu_node.net.spec import PortSpec


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
