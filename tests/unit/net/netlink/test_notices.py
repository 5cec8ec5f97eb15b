import struct
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.netlink.answers import LinkFacts
from qemu_node.net.netlink.messages import attribute, nested
from qemu_node.net.netlink.notices import (
    UPLINK_MOVED,
    Judge,
    LinkNotice,
    Notice,
    TableNotice,
    VlanNotice,
    Watched,
    route_notices,
    table_notices,
)
from qemu_node.net.portspec import PortSpec

TAP, TRUNK, OTHER = "qn0123456789a00", "qn0123456789a01", "qn0123456789b00"
BRIDGE_INDEX, UPLINK_INDEX, TAP_INDEX, TRUNK_INDEX = 2, 3, 7, 8
NAMES = {BRIDGE_INDEX: "br0", UPLINK_INDEX: "bond0", TAP_INDEX: TAP, TRUNK_INDEX: TRUNK}
LINKS = [
    LinkFacts(ifname="br0", ifindex=BRIDGE_INDEX, master=0, is_up=True),
    LinkFacts(ifname="bond0", ifindex=UPLINK_INDEX, master=BRIDGE_INDEX, is_up=True),
]
UP, NEW = 1, 0xFFFFFFFF


def port(ifname: str, **vlans: object) -> PortSpec:
    return PortSpec(vm_id="web", index=0, ifname=ifname, mac="02:00:00:00:00:a1", **vlans)  # type: ignore[arg-type]


WATCHED = Watched(
    bridge="br0",
    uplink="bond0",
    management_vlan=4094,
    tables=frozenset({"bridge qn", "inet qn_user_1_1"}),
    ports={TAP: port(TAP, vlan=30), TRUNK: port(TRUNK, vlan=None, trunk=(30, 40))},
)


def message(kind: int, body: bytes) -> bytes:
    size = 16 + len(body)
    return struct.pack("=IHHII", size, kind, 0, 0, 0) + body + b"\0" * (-size % 4)


def link(
    kind: int, ifindex: int, name: str, *, family: int = 0, master: int = 0, flags: int = UP,
    change: int = 0,
) -> bytes:  # fmt: skip
    body = struct.pack("=BxHiII", family, 1, ifindex, flags, change)
    body += attribute(3, name.encode() + b"\0") + attribute(10, struct.pack("=I", master))
    return message(kind, body)


def bond(active: int, *, kind: str = "bond", flags: int = UP) -> bytes:
    """Return that the uplink is there, in its bridge, and uses a NIC."""
    body = struct.pack("=BxHiII", 0, 1, UPLINK_INDEX, flags, 0)
    body += attribute(3, b"bond0\0") + attribute(10, struct.pack("=I", BRIDGE_INDEX))
    data = nested(
        2, attribute(1, b"\1"), *([attribute(2, struct.pack("=I", active))] * (active > 0))
    )
    body += nested(18, attribute(1, kind.encode() + b"\0"), data)
    return message(16, body)


@pytest.mark.parametrize(
    ("told", "moves"),
    [
        ([bond(11), bond(11)], 0),
        ([bond(12)], 1),
        ([bond(12), bond(12), bond(11)], 2),
        # Without any NIC for a while: the switches have forgotten meanwhile.
        ([bond(0), bond(11)], 1),
        ([bond(12, kind="team")], 0),
    ],
)
def test_an_uplink_that_changes_its_nic_is_noticed(told: list[bytes], moves: int) -> None:
    links = [LINKS[0], replace(LINKS[1], active_port=11)]
    judge = Judge(links)
    found = [judge.losses(route_notices(data), NAMES, WATCHED) for data in told]
    assert sum(losses.count(UPLINK_MOVED) for losses in found) == moves
    assert all(set(losses) <= {UPLINK_MOVED} for losses in found)


def vlans(kind: int, ifindex: int, first: int, last: int | None = None, flags: int = 0) -> bytes:
    entry = attribute(1, struct.pack("=HH", flags, first))
    if last is not None:
        entry += attribute(2, struct.pack("=H", last))
    return message(kind, struct.pack("=BxxxI", 7, ifindex) + nested(1, entry))


def table(event: int, family: int, name: str, *taps: str) -> bytes:
    body = struct.pack("=BBH", family, 0, 0) + attribute(1, name.encode() + b"\0")
    elements = b"".join(
        nested(1, nested(1, attribute(1, tap.encode().ljust(16, b"\0") + bytes(8)))) for tap in taps
    )
    return message(0x0A00 | event, body + nested(3, elements))


def losses(*told: bytes, names: Mapping[int, str] = NAMES, watched: Watched = WATCHED) -> list[str]:
    """Return what VMs lose by what the kernel tells in these messages."""
    notices: list[Notice] = []
    for data in told:
        (kind,) = struct.unpack_from("=H", data, 4)
        notices += table_notices(data) if kind >> 8 == 10 else route_notices(data)
    return Judge(LINKS).losses(notices, names, watched)


# Ports


def test_a_tap_taken_out_of_the_bridge_is_a_loss() -> None:
    left = link(17, TAP_INDEX, TAP, family=7, master=BRIDGE_INDEX)
    assert losses(left) == [f"port {TAP}"]
    assert losses(link(17, 9, OTHER, family=7)) == []


def test_a_tap_set_down_is_a_loss_and_one_that_is_not_up_yet_is_none() -> None:
    assert losses(link(16, TAP_INDEX, TAP, flags=0, change=UP)) == [f"port {TAP}"]
    assert losses(link(16, TAP_INDEX, TAP, flags=0, change=NEW)) == []
    assert losses(link(16, TAP_INDEX, TAP, flags=0, change=0)) == []
    assert losses(link(16, TAP_INDEX, TAP, flags=UP, change=UP)) == []


def test_a_tap_that_goes_with_its_qemu_is_no_loss() -> None:
    told = (
        link(16, TAP_INDEX, TAP, flags=0, change=UP),
        vlans(113, TAP_INDEX, 30),
        link(17, TAP_INDEX, TAP, family=7, master=BRIDGE_INDEX),
        link(17, TAP_INDEX, TAP, flags=0),
    )
    left = {index: name for index, name in NAMES.items() if name != TAP}
    assert losses(*told, names=left) == []
    # Nor where the same VM has another one already.
    assert losses(*told, names=left | {9: TAP}) == []


def test_an_attach_of_ours_is_no_loss() -> None:
    told = (
        link(16, TAP_INDEX, TAP, flags=0, change=NEW),
        link(16, TAP_INDEX, TAP, flags=0, master=BRIDGE_INDEX),
        # A bridge with a default VLAN.
        vlans(112, TAP_INDEX, 1, flags=6),
        vlans(113, TAP_INDEX, 1),
        vlans(112, TAP_INDEX, 30, flags=6),
        link(16, TAP_INDEX, TAP, family=7, master=BRIDGE_INDEX),
        link(16, TAP_INDEX, TAP, master=BRIDGE_INDEX, flags=UP, change=UP),
        vlans(112, UPLINK_INDEX, 30),
    )
    assert losses(*told) == []


# VLANs


@pytest.mark.parametrize(
    ("told", "lost"),
    [
        (vlans(113, TAP_INDEX, 30), f"VLANs of {TAP}"),
        (vlans(113, TRUNK_INDEX, 35, 45), f"VLANs of {TRUNK}"),
        # One that others have given it.
        (vlans(112, TAP_INDEX, 99), f"VLANs of {TAP}"),
        # Its own, with the wrong tag.
        (vlans(112, TAP_INDEX, 30), f"VLANs of {TAP}"),
        (vlans(112, TRUNK_INDEX, 30, flags=6), f"VLANs of {TRUNK}"),
        (vlans(113, UPLINK_INDEX, 30), "VLANs of bond0"),
        (vlans(113, UPLINK_INDEX, 2, 4094), "VLANs of bond0"),
    ],
)
def test_vlans_other_than_those_of_vms_are_a_loss(told: bytes, lost: str) -> None:
    assert losses(told) == [lost]


@pytest.mark.parametrize(
    "told",
    [
        vlans(113, UPLINK_INDEX, 31, 39),
        # None of VMs' business, or removed in the next round.
        vlans(112, UPLINK_INDEX, 4094, flags=6),
        vlans(113, 99, 30),
        vlans(113, BRIDGE_INDEX, 30),
        vlans(112, TRUNK_INDEX, 30),
        # The end of a range before its beginning.
        vlans(113, UPLINK_INDEX, 50, 20),
    ],
)
def test_other_vlans_are_no_loss(told: bytes) -> None:
    assert losses(told) == []


def test_a_vlan_that_is_the_nodes_own_on_the_uplink_is_looked_at() -> None:
    assert losses(vlans(112, UPLINK_INDEX, 50, flags=0x4)) == ["VLANs of bond0"]


def test_of_each_vlan_the_last_word_counts() -> None:
    assert losses(vlans(113, UPLINK_INDEX, 30, 40), vlans(112, UPLINK_INDEX, 30, 40)) == []
    assert losses(vlans(113, UPLINK_INDEX, 30, 40), vlans(112, UPLINK_INDEX, 30)) != []


# Bridge and uplink


@pytest.mark.parametrize(
    ("told", "lost"),
    [
        (link(17, BRIDGE_INDEX, "br0"), "br0"),
        (link(16, 11, "br0"), "br0"),
        (link(17, UPLINK_INDEX, "bond0", family=7), "bond0"),
        (link(16, UPLINK_INDEX, "bond0", master=0), "bond0"),
    ],
)
def test_a_bridge_or_uplink_that_goes_or_is_made_anew_is_a_loss(told: bytes, lost: str) -> None:
    assert losses(told) == [lost]


def test_an_uplink_that_joins_again_is_told_once() -> None:
    judge = Judge(LINKS)
    joined = link(16, UPLINK_INDEX, "bond0", master=BRIDGE_INDEX)
    for told, lost in (
        (joined, []),
        (link(17, UPLINK_INDEX, "bond0", family=7), ["bond0"]),
        (link(17, UPLINK_INDEX, "bond0", family=7), []),
        (joined, ["bond0"]),
        (joined, []),
    ):
        assert judge.losses(route_notices(told), NAMES, WATCHED) == lost


def test_without_bridge_and_uplink_no_device_is_missed() -> None:
    nothing = Watched(bridge="", uplink="", management_vlan=4094, tables=frozenset(), ports={})
    told = link(17, 5, ""), link(17, BRIDGE_INDEX, "br0"), vlans(113, 12, 30)
    assert losses(*told, watched=nothing) == []


def test_a_port_that_goes_is_no_uplink_where_there_is_none() -> None:
    alone = replace(WATCHED, uplink="")
    assert losses(vlans(113, 99, 30), watched=alone) == []
    assert losses(vlans(113, TAP_INDEX, 30), watched=alone) == [f"VLANs of {TAP}"]


# Tables


@pytest.mark.parametrize("event", [2, 5, 6, 8, 11])
def test_a_table_that_is_removed_or_has_other_rules_is_a_loss(event: int) -> None:
    assert losses(table(event, 7, "qn")) == ["table bridge qn"]
    assert losses(table(event, 1, "qn_user_1_1")) == ["table inet qn_user_1_1"]
    assert losses(table(event, 1, "qn"), table(event, 7, "operator"), table(event, 2, "qn")) == []


@pytest.mark.parametrize("event", [0, 3, 9, 12, 15, 26])
def test_what_is_added_to_a_table_is_no_loss(event: int) -> None:
    assert losses(table(event, 7, "qn", TAP)) == []


def test_elements_are_a_loss_while_their_port_is_in_use() -> None:
    assert losses(table(14, 7, "qn", OTHER)) == []
    assert losses(table(14, 7, "qn", OTHER, TAP)) == ["table bridge qn"]


# Odd bytes


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_error(data: bytes) -> None:
    notices = [*route_notices(data), *table_notices(data)]
    Judge(LINKS).losses(notices, NAMES, WATCHED)


_BODIES = st.tuples(
    st.sampled_from([16, 17, 112, 113, *(0x0A00 | event for event in range(16))]),
    st.binary(max_size=120),
)


@given(st.lists(_BODIES, max_size=4), st.integers(0, 8))
def test_messages_of_the_right_kind_with_any_content_are_read_without_error(
    bodies: list[tuple[int, bytes]], cut: int
) -> None:
    data = b"".join(message(kind, body) for kind, body in bodies)
    data = data[: len(data) - cut]
    notices = [*route_notices(data), *table_notices(data)]
    Judge(LINKS).losses(notices, NAMES, WATCHED)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_a_range_of_vlans_beyond_what_there_can_be_ends(first: int, last: int) -> None:
    notice = VlanNotice(
        ifindex=UPLINK_INDEX, first=first, last=last, is_untagged=False, is_gone=True
    )
    found = Judge(LINKS).losses([notice], NAMES, WATCHED)
    assert bool(found) == any(first <= vid <= last for vid in WATCHED.vids)


def test_a_message_that_is_cut_off_hides_none_before_it() -> None:
    whole = link(17, TAP_INDEX, TAP, family=7)
    assert list(route_notices(whole + whole[:-4])) == [
        LinkNotice(ifindex=TAP_INDEX, ifname=TAP, has_left=True)
    ]
    assert list(table_notices(table(2, 7, "qn") + b"\xff" * 7)) == [
        TableNotice(table="bridge qn", taps=None)
    ]
