"""Ports as they come and go: of many VMs, with a NIC that fails, with processes that are killed."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from network import crashing_ports, frames
from network.facts import MANAGEMENT, is_untagged, set_elements, taps, vlans_of, wait_until
from network.lab import CONFIG, OUTSIDE_MAC, Lab, port_spec
from network.namespaces import bridge, ip

from qemu_node.config.network import NetworkPolicy
from qemu_node.errors import MissingPartError
from qemu_node.host.process.command import run_blocking
from qemu_node.net import manager as ports
from qemu_node.net.errors import NetworkError, TapBusyError
from qemu_node.net.manager import PortManager
from qemu_node.net.port import bridgeport
from qemu_node.net.port.tap import open_tap

pytestmark = [pytest.mark.needs_vlans, pytest.mark.timeout(300)]

MANY = 200
RATE_MBIT = 1
BURST = 2000
"""Frames: 2.8 MB, as much as passes at this rate in 20 s after the 256 KiB that pass at once."""


def assert_nothing_is_left(lab: Lab) -> None:
    wait_until(lambda: taps() == [], "the last TAP to go")
    assert lab.uplink_vlans() == set()
    assert set_elements() == []


@pytest.fixture(autouse=True)
def nothing_stays_behind(lab: Lab) -> Iterator[None]:
    yield
    for name in list(lab.ports):
        lab.detach(name)
    assert_nothing_is_left(lab)


def test_the_uplink_carries_a_vlan_from_its_first_guest_to_its_last(lab: Lab) -> None:
    assert lab.uplink_vlans() == set()
    lab.attach(port_spec("one", 1, vlan=30))
    lab.attach(port_spec("two", 2, vlan=None, trunk=(30, 31, 32, 40)))
    assert lab.uplink_vlans() == {30, 31, 32, 40}
    lab.detach("two")
    assert lab.uplink_vlans() == {30}
    lab.detach("one")
    assert lab.uplink_vlans() == set()
    assert vlans_of("bond0") == {MANAGEMENT}


def test_a_vlan_that_the_node_has_untagged_on_the_uplink_stays_as_it_is(lab: Lab) -> None:
    bridge("vlan add dev bond0 vid 50 untagged")
    try:
        # As whoever watches does at the kernel's word.
        lab.run(lab.manager.reconcile([]))
        lab.attach(port_spec("one", 1, vlan=None, trunk=(30, 50)))
        assert lab.uplink_vlans() == {30, 50}
        assert is_untagged("bond0", 50)
        lab.detach("one")
        assert lab.uplink_vlans() == {50}
        assert is_untagged("bond0", 50)
    finally:
        bridge("vlan del dev bond0 vid 50")
        lab.run(lab.manager.reconcile([]))


def test_a_bridge_that_begins_to_snoop_multicast_gets_no_port(lab: Lab) -> None:
    ip("link set br0 type bridge mcast_snooping 1")
    try:
        with pytest.raises(MissingPartError, match="snoops multicast"):
            lab.run(lab.manager.attach(port_spec("one", 1, vlan=30)))
        assert any("snoops multicast" in problem for problem in lab.run(lab.manager.problems()))
    finally:
        ip("link set br0 type bridge mcast_snooping 0")


def test_a_tagged_vlan_that_no_vm_can_have_stays_on_the_uplink(lab: Lab) -> None:
    # As of br0.200, where an operator's storage is: CONFIG gives VMs up to 4093.
    bridge("vlan add dev bond0 vid 4093\nvlan add dev bond0 vid 60")
    narrow = msgspec.structs.replace(
        CONFIG, policy=(NetworkPolicy(namespaces=("*",), vlans=("2-99",)),)
    )
    lab.run(lab.manager.aclose())
    manager = PortManager(narrow, identity="test")
    try:
        lab.run(manager.reconcile([]))
        assert lab.uplink_vlans() == {4093}
    finally:
        lab.run(manager.aclose())
        bridge("vlan del dev bond0 vid 4093")
        lab.run(lab.manager.begin())


def test_a_tap_that_is_still_there_gets_no_rights_of_the_next_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "_BUSY_WAIT_S", 0.0)
    spec = port_spec("again", 1, vlan=30)
    old = open_tap(spec.ifname)
    try:
        with pytest.raises(TapBusyError):
            lab.run(lab.manager.attach(spec))
        assert taps() == [spec.ifname]
        assert set_elements() == []
        assert lab.uplink_vlans() == set()
    finally:
        old.close()


@pytest.mark.parametrize(
    "step",
    ["qemu_node.net.filter.filtertable.FilterTable.add", "qemu_node.net.manager.join_bridge"],
)
def test_what_an_attach_that_fails_half_way_has_done_is_undone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NetworkError("no")

    monkeypatch.setattr(step, refuse)
    with pytest.raises(NetworkError, match="no"):
        lab.run(lab.manager.attach(port_spec("one", 1, vlan=30)))
    assert_nothing_is_left(lab)


def test_a_port_has_its_vlans_and_no_others(lab: Lab) -> None:
    access, trunk = port_spec("one", 1, vlan=30), port_spec("two", 2, vlan=None, trunk=(30, 40))
    lab.attach(access)
    lab.attach(trunk)
    assert vlans_of(access.ifname) == {30}
    assert vlans_of(trunk.ifname) == {30, 40}


def test_a_guest_has_a_descriptor_and_a_vhost_for_each_queue(lab: Lab) -> None:
    lab.attach(port_spec("many", 1, vlan=30, queues=4))
    tap = lab.ports["many"].tap
    assert (len(tap.fds), len(tap.vhost_fds)) == (4, 4)


def test_a_name_that_comes_again_has_the_rights_of_its_new_port_alone(lab: Lab) -> None:
    lab.attach(port_spec("again", 1, vlan=30))
    lab.detach("again")
    spec = port_spec("again", 2, vlan=40)
    lab.attach(spec)
    assert lab.follow("again", frames.plain("02:00:00:00:00:01")) == {}
    assert lab.follow("again", frames.plain(spec.mac)) == {"uplink": [(40,)]}


def test_a_guest_that_ends_takes_its_port_with_it(lab: Lab) -> None:
    lab.attach(port_spec("short", 1, vlan=30)).close()
    wait_until(lambda: taps() == [], "the TAP to go")
    lab.run(lab.manager.reconcile([]))


def test_what_others_remove_comes_back_at_the_next_reconcile(lab: Lab) -> None:
    spec = port_spec("kept", 1, vlan=30)
    lab.attach(spec)
    bridge("vlan del dev bond0 vid 30")
    ip(f"link set {spec.ifname} nomaster")
    run_blocking(["nft", "flush", "ruleset"], check=False)
    lab.run(lab.manager.reconcile([spec]))
    assert lab.uplink_vlans() == {30}
    assert vlans_of(spec.ifname) == {30}
    assert lab.follow("kept", frames.plain(spec.mac)) == {"uplink": [(30,)]}
    assert lab.follow("kept", frames.plain("02:00:00:00:00:99")) == {}


def test_a_guest_that_ends_while_its_port_is_put_right_is_no_failure(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = port_spec("short", 1, vlan=30, strict=True)
    guest = lab.attach(spec)
    ip(f"link set {spec.ifname} down")

    def end(*_: object, **__: object) -> None:
        guest.close()
        wait_until(lambda: taps() == [], "the TAP to go")
        raise NetworkError("no such device")

    monkeypatch.setattr(bridgeport, "join_bridge", end)
    lab.run(lab.manager.reconcile([spec]))


def test_a_foreign_flush_of_all_rules_does_not_open_the_node(lab: Lab) -> None:
    spec = port_spec("kept", 1, vlan=30)
    lab.attach(spec)
    run_blocking(["nft", "flush", "ruleset"], check=False)
    assert lab.follow("kept", frames.plain("02:00:00:00:00:99")) == {}
    assert lab.drops("kept") == {"mac": 1}


def test_without_the_filter_a_lie_would_get_through_and_a_new_driver_stops_it(lab: Lab) -> None:
    lab.attach(port_spec("liar", 1, vlan=30))
    lie = frames.plain("02:00:00:00:00:99")
    lab.run(lab.manager.aclose())
    assert lab.follow("liar", lie) == {}
    run_blocking(["nft", "delete", "table", "bridge", "qn"])
    assert lab.follow("liar", lie) == {"uplink": [(30,)]}
    lab.run(lab.manager.reconcile([]))
    assert lab.follow("liar", lie) == {}


def test_rules_of_others_stay(lab: Lab) -> None:
    run_blocking(["nft", "add table inet operator"])
    lab.attach(port_spec("one", 1, vlan=30))
    lab.detach("one")
    lab.run(lab.manager.reconcile([]))
    assert "table inet operator" in run_blocking(["nft", "list", "tables"]).stdout.decode()


def test_a_rate_is_kept_both_ways_and_goes_with_its_port(lab: Lab) -> None:
    spec = port_spec("slow", 1, vlan=30, rate_mbit=RATE_MBIT)
    guest = lab.attach(spec)
    uplink = lab.sender("uplink")
    assert queueing(spec.ifname).keys() >= {"tbf", "clsact"}
    lab.drain()
    out = replace(frames.plain(spec.mac), payload=bytes(1380)).to_bytes(lab.token())
    for _ in range(BURST):
        guest.send(out)
    arrived = len([one for one in uplink.drain() if one.token == out[-frames.TOKEN_BYTES :]])
    assert 0 < arrived < BURST
    assert policed(spec.ifname) > 0

    back = replace(frames.plain(OUTSIDE_MAC, spec.mac), payload=bytes(1380)).tagged(30)
    data = back.to_bytes(lab.token())
    got = 0
    for _ in range(BURST):
        # What waits for the rate fills the sender's buffer.
        with contextlib.suppress(BlockingIOError):
            uplink.send(data)
        # The guest takes what comes: nothing waits for it.
        got += len([one for one in guest.drain() if one.token == data[-frames.TOKEN_BYTES :]])
    assert 0 < got < BURST
    assert queueing(spec.ifname)["tbf"] > 0

    lab.detach("slow")
    wait_until(lambda: taps() == [], "the TAP to go")
    # The same VM again, with no limit any more.
    lab.attach(port_spec("slow", 1, vlan=30))
    assert queueing(spec.ifname).keys().isdisjoint({"tbf", "clsact"})


def queueing(ifname: str) -> dict[str, int]:
    """Return the queueing disciplines of a device, and how often each had to hold back a frame."""
    done = run_blocking(["tc", "-json", "-statistics", "qdisc", "show", "dev", ifname])
    return {found["kind"]: found["overlimits"] for found in json.loads(done.stdout)}


def policed(ifname: str) -> int:
    """Return how many frames from the guest its limit has dropped."""
    done = run_blocking(["tc", "-json", "-statistics", "filter", "show", "dev", ifname, "ingress"])
    [drops] = [
        action["stats"]["drops"]
        for found in json.loads(done.stdout)
        for action in found.get("options", {}).get("actions", [])
        if action["kind"] == "police"
    ]
    assert isinstance(drops, int)
    return drops


def test_hundreds_of_ports_are_made_and_removed(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    specs = [
        port_spec(f"vm{n}", n, vlan=None, trunk=(2 + n, 1000))
        if n % 10 == 0
        else port_spec(f"vm{n}", n, vlan=2 + n)
        for n in range(1, MANY + 1)
    ]

    async def attach_all() -> None:
        attached = await asyncio.gather(*(lab.manager.attach(spec) for spec in specs))
        for port in attached:
            lab.ports[port.port.vm_id] = port

    async def detach_all() -> None:
        ports = [lab.ports.pop(spec.vm_id) for spec in specs]
        await asyncio.gather(*(port.close() for port in ports))
        await asyncio.gather(*(lab.manager.detach(port.port) for port in ports))

    began = time.monotonic()
    lab.run(attach_all())
    record_property("attach_ms", round((time.monotonic() - began) * 1000 / MANY, 1))
    assert len(taps()) == MANY
    assert lab.uplink_vlans() == {vid for spec in specs for vid in spec.vids}
    lab.run(lab.manager.reconcile(specs))
    began = time.monotonic()
    lab.run(detach_all())
    record_property("detach_ms", round((time.monotonic() - began) * 1000 / MANY, 1))


def test_sigkill_at_any_step_leaves_nothing_that_the_next_driver_does_not_remove(
    lab: Lab,
) -> None:
    # The lab's own driver gives up the filter: there is one at a time.
    lab.run(lab.manager.aclose())
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(Path(sys.modules["qemu_node"].__path__[0]).parent)]
    done = run_blocking(
        [sys.executable, crashing_ports.__file__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *sys.path])},
        timeout_s=240,
    )
    lab.run(lab.manager.begin())
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) > 15, "a start and an end of a port have more steps"
    assert [report for report in reports if report["left"]] == []
