"""What a guest can send, and where it must and must not arrive: real TAPs, bridge, bond and rules.

Raw frames go in and come out at the file descriptors that QEMU would have, at the wire between the
node and its switch, and at the node's own stack.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from network import frames
from network.facts import taps, wait_until
from network.lab import NODE_IP, NODE_PORT, OUTSIDE_MAC, Lab
from network.matrix import GUESTS, LINK_LOCAL, MAC, Row, forgeries, large_segments, rows
from network.wire import Node

pytestmark = [pytest.mark.needs_vlans]


@pytest.fixture(scope="module", params=[True, False], ids=["strict", "offloading"])
def is_strict(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module", autouse=True)
def guests(lab: Lab, is_strict: bool) -> Iterator[None]:
    for spec in GUESTS.values():
        lab.attach(replace(spec, strict=is_strict))
    yield
    for name in GUESTS:
        lab.detach(name)
    wait_until(lambda: taps() == [], "the TAPs to go")


def of_rows(table: Iterable[Row]) -> pytest.MarkDecorator:
    params = [pytest.param(row, id=f"{row.sender}: {row.name}") for row in table]
    return pytest.mark.parametrize("row", params)


@of_rows(rows())
def test_a_frame_arrives_where_it_may_and_a_drop_is_counted_under_its_reason(
    lab: Lab, row: Row
) -> None:
    assert_row(lab, row)


@of_rows(forgeries())
def test_a_checksum_left_to_others_is_written_before_the_filter_of_a_strict_port_looks(
    lab: Lab, *, is_strict: bool, row: Row
) -> None:
    if is_strict:
        assert_row(lab, row)
    else:
        # What is not closed: the filter sees the frame as it was before.
        assert lab.follow(row.sender, row.frame)


@of_rows(large_segments())
def test_a_large_segment_is_checked_as_small_ones_are(lab: Lab, row: Row) -> None:
    assert row.reason is not None
    before = lab.drops(row.sender).get(row.reason, 0)
    assert lab.follow(row.sender, row.frame) == {}
    assert lab.drops(row.sender).get(row.reason, 0) > before


def assert_row(lab: Lab, row: Row) -> None:
    is_guest = row.sender in GUESTS
    before = lab.drops(row.sender) if is_guest else {}
    arrived = lab.follow(row.sender, row.frame)
    assert arrived == {name: [tags] for name, tags in row.reaches.items()}
    if is_guest:
        after = lab.drops(row.sender)
        counted = {reason: after[reason] - before.get(reason, 0) for reason in after}
        expected = {row.reason.value: 1} if row.reason else {}
        assert {reason: n for reason, n in counted.items() if n} == expected


def test_unicast_reaches_its_guest_alone_from_the_first_frame_on(lab: Lab) -> None:
    assert lab.follow("a1", frames.plain(MAC["a1"], MAC["a2"])) == {"a2": [()]}
    assert lab.follow("t1", frames.plain(MAC["t1"], MAC["a2"]).tagged(30)) == {"a2": [()]}
    assert lab.follow("uplink", frames.plain(OUTSIDE_MAC, MAC["t1"]).tagged(40)) == {"t1": [(40,)]}


def test_unicast_to_nobody_known_goes_outside_alone(lab: Lab) -> None:
    assert lab.follow("a1", frames.plain(MAC["a1"], "02:00:00:00:ff:ff")) == {"uplink": [(30,)]}
    # In another VLAN a guest's address is unknown.
    assert lab.follow("b1", frames.plain(MAC["b1"], MAC["a2"])) == {"uplink": [(40,)]}
    unknown = frames.plain(OUTSIDE_MAC, "02:00:00:00:ff:ff").tagged(30)
    assert lab.follow("uplink", unknown) == {}


@pytest.mark.parametrize("liar", ["a1", "b1", "t1", "uplink"])
def test_a_spoofed_address_does_not_draw_another_guests_traffic(lab: Lab, liar: str) -> None:
    tags = () if liar in ("a1", "b1") else (30,)
    lab.follow(liar, frames.plain(MAC["a2"]).tagged(*tags))
    assert lab.follow("i1", frames.plain(MAC["i1"], MAC["a2"])) == {"a2": [()]}


def test_a_frame_to_the_hosts_end_of_the_tap_reaches_nobody(lab: Lab) -> None:
    ifname = GUESTS["a1"].ifname
    tap_mac = Path(f"/sys/class/net/{ifname}/address").read_text().strip()
    packet = frames.udp(MAC["a1"], "10.99.0.77", NODE_IP, dst=tap_mac, ports=(7, NODE_PORT))
    assert lab.follow("a1", packet) == {}


def test_of_a_router_advertisement_in_pieces_the_beginning_is_missing(lab: Lab) -> None:
    first, second = frames.ra_in_two_fragments(MAC["a1"], LINK_LOCAL["a1"])
    arrived = lab.follow("a1", first, second)
    assert all(len(tags) <= 1 for tags in arrived.values())


def test_the_node_says_nothing_to_a_guest_whatever_it_is_asked(lab: Lab) -> None:
    lab.drain()
    node = lab.ends["node"]
    assert isinstance(node, Node)
    node.broadcast("10.99.0.255")
    for name in GUESTS:
        lab.follow(name, frames.arp(MAC[name], MAC[name], "10.99.0.77", NODE_IP))
    assert {name: lab.noise(name) for name in GUESTS} == {name: [] for name in GUESTS}
