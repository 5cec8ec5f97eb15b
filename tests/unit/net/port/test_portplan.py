import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.filter.elements import Element, elements
from qemu_node.net.netlink.answers import LinkFacts, PortVlans
from qemu_node.net.port.portplan import plan_elements, plan_ports, plan_uplink
from qemu_node.net.portspec import PortSpec, tap_name

BRIDGE = 7
_VIDS = st.frozensets(st.integers(1, 4094), max_size=12)


def port(number: int, *, vlan: int | None = 30, trunk: tuple[int, ...] = ()) -> PortSpec:
    vm_id = f"vm-{number:012x}"
    return PortSpec(
        vm_id=vm_id,
        index=0,
        ifname=tap_name(vm_id, 0),
        mac=f"02:00:00:00:00:{number:02x}",
        vlan=vlan,
        trunk=trunk,
    )


def link(ifname: str, ifindex: int, *, master: int = BRIDGE, is_up: bool = True) -> LinkFacts:
    return LinkFacts(ifname=ifname, ifindex=ifindex, master=master, is_up=is_up)


def vlans(*vids: int, untagged: tuple[int, ...] = ()) -> PortVlans:
    return PortVlans(vids=frozenset(vids), untagged=frozenset(untagged))


@given(actual=_VIDS, foreign=_VIDS, wanted=_VIDS, removable=_VIDS)
def test_the_uplink_ends_with_what_is_wanted_and_what_is_not_ours(
    actual: frozenset[int],
    foreign: frozenset[int],
    wanted: frozenset[int],
    removable: frozenset[int],
) -> None:
    add, remove = plan_uplink(actual=actual, foreign=foreign, wanted=wanted, removable=removable)
    after = (actual | add) - remove
    assert after >= wanted - foreign
    assert after - wanted == actual - wanted - (removable - foreign)
    assert after & foreign == actual & foreign
    assert not add & actual
    assert remove <= actual


def test_an_uplink_that_is_right_is_left_alone() -> None:
    nothing = frozenset[int]()
    assert plan_uplink(
        actual=frozenset((30, 99)),
        foreign=frozenset((99,)),
        wanted=frozenset((30,)),
        removable=frozenset((30,)),
    ) == (nothing, nothing)


def test_elements_of_dead_vms_go_and_missing_ones_come() -> None:
    dead, live = port(1), port(2)
    actual = frozenset((*elements(dead), *elements(live)[1:]))
    added, removed = plan_elements(actual, [live])
    assert added == {elements(live)[0]}
    assert removed == frozenset(elements(dead))


def test_an_old_address_of_a_live_vm_goes() -> None:
    live = port(1)
    stale = Element("src_raw", live.ifname, "02:00:00:00:00:ff")
    added, removed = plan_elements(frozenset((*elements(live), stale)), [live])
    assert not added
    assert removed == {stale}


def test_ports_that_are_right_are_left_alone() -> None:
    access, trunk = port(1), port(2, vlan=None, trunk=(30, 40))
    changes = plan_ports(
        [link("br0", BRIDGE, master=0), link(access.ifname, 11), link(trunk.ifname, 12)],
        {11: vlans(30, untagged=(30,)), 12: vlans(30, 40)},
        [access, trunk],
        BRIDGE,
    )
    assert (changes.repair, changes.stray) == ((), ())


def test_a_port_that_somebody_changed_is_put_right() -> None:
    ports = [port(number) for number in range(1, 7)]
    links = [link(p.ifname, 10 + number) for number, p in enumerate(ports)]
    links[0] = dataclasses.replace(links[0], master=0)
    links[1] = dataclasses.replace(links[1], is_up=False)
    carried = {
        12: vlans(1, 30, untagged=(1, 30)),
        13: vlans(30),
        14: vlans(40, untagged=(40,)),
        15: vlans(30, untagged=(30,)),
    }
    changes = plan_ports(links, carried, ports, BRIDGE)
    assert [ifindex for _, ifindex in changes.repair] == [10, 11, 12, 13, 14]


def test_a_tap_of_no_live_vm_is_removed_from_our_bridge_only() -> None:
    stray, elsewhere = link(port(1).ifname, 11), link(port(2).ifname, 12, master=9)
    others = [link("qnap0", 13), link("bond0", 14), link("tap0", 15)]
    changes = plan_ports([stray, elsewhere, *others], {}, [], BRIDGE)
    assert changes.stray == (stray,)
    assert changes.repair == ()


def test_a_live_vm_whose_tap_is_gone_is_no_case_for_a_change() -> None:
    changes = plan_ports([], {}, [port(1)], BRIDGE)
    assert (changes.repair, changes.stray) == ((), ())
