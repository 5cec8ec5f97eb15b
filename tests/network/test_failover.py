"""A NIC of the bond that fails: how long VLANs are interrupted, who is found behind the other."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.vmnode import until
from network import frames
from network.facts import taps, wait_until
from network.lab import CONFIG, OUTSIDE_MAC, Lab, port_spec
from network.namespaces import ip
from network.wire import Arrival, Guest, Wire

from qemu_node.config.node import Paths
from qemu_node.net.portspec import PortSpec
from qemu_node.vm.vmnetwork import Network

pytestmark = [pytest.mark.needs_vlans, pytest.mark.timeout(300)]

FAILOVER_S = 1.0
_BEAT_S = 0.005


@pytest.fixture(autouse=True)
def nothing_stays_behind(lab: Lab) -> Iterator[None]:
    yield
    ip("link set node up", namespace="sw1")
    for name in list(lab.ports):
        lab.detach(name)
    wait_until(lambda: taps() == [], "the last TAP to go")
    wait_until(is_back_on_nic1, "nic1 to be taken by the bond")


def is_back_on_nic1() -> bool:
    try:
        Path("/sys/class/net/bond0/bonding/active_slave").write_text("nic1")
    except OSError:
        # The bond looks at the carrier of its NICs now and then (miimon) and takes none without.
        return False
    return True


@pytest.fixture
def outside(lab: Lab) -> Iterator[Wire]:
    wire = Wire("wire", namespace="lan")
    yield wire
    wire.close()


def test_a_silent_vm_is_found_behind_the_other_nic(lab: Lab, outside: Wire, tmp_path: Path) -> None:
    access, trunk = port_spec("f30", 30, vlan=30), port_spec("f40", 40, vlan=None, trunk=(40, 50))
    guests = {(access.mac, 30): lab.attach(access)}
    guests |= dict.fromkeys(((trunk.mac, 40), (trunk.mac, 50)), lab.attach(trunk))
    # Both switches learn where the VMs are, and that they are silent from now on.
    for (mac, vid), guest in guests.items():
        tags = () if vid == access.vlan else (vid,)
        guest.send(frames.plain(mac).tagged(*tags).to_bytes(lab.token()))
    paths = Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))
    network = Network(paths, CONFIG, lab.manager)

    async def found() -> None:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(network.watch())
            # It has begun to listen once it waits.
            await asyncio.sleep(0)
            for key in guests:
                await until_heard(*key)
            ip("link set node down", namespace="sw1")
            for key in guests:
                await until_heard(*key)
            watching.cancel()

    async def until_heard(mac: str, vid: int) -> None:
        token = lab.token()

        def ask() -> list[Arrival]:
            outside.send(frames.plain(OUTSIDE_MAC, mac).tagged(vid).to_bytes(token))
            return guests[mac, vid].drain()

        await until(
            ask, lambda got: any(one.token == token for one in got), f"a frame for {mac} in {vid}"
        )

    lab.run(found())
    assert Path("/sys/class/net/bond0/bonding/active_slave").read_text() == "nic2\n"


def test_a_nic_that_fails_interrupts_no_vlan_for_more_than_a_second(
    lab: Lab, outside: Wire
) -> None:
    specs = {name: port_spec(name, vid, vlan=vid) for name, vid in (("f30", 30), ("f40", 40))}
    guests = {name: lab.attach(spec) for name, spec in specs.items()}
    assert_both_ways(lab, specs, guests, outside, within_s=FAILOVER_S * 10)
    ip("link set node down", namespace="sw1")
    assert_both_ways(lab, specs, guests, outside, within_s=FAILOVER_S)
    assert Path("/sys/class/net/bond0/bonding/active_slave").read_text() == "nic2\n"
    assert lab.uplink_vlans() == {30, 40}


def assert_both_ways(
    lab: Lab,
    specs: dict[str, PortSpec],
    guests: dict[str, Guest],
    outside: Wire,
    *,
    within_s: float,
) -> None:
    """Send until each guest was heard outside in its VLAN, and has heard from there.

    The time is counted in beats: while this machine stands still, so does the bond.
    """
    missing = {(name, way) for name in specs for way in ("out", "in")}
    tokens = {(name, way): lab.token() for name, way in missing}
    for _ in range(round(within_s / _BEAT_S)):
        for name, spec in specs.items():
            guests[name].send(frames.plain(spec.mac).to_bytes(tokens[name, "out"]))
            frame = frames.plain(OUTSIDE_MAC).tagged(spec.vlan or 0)
            outside.send(frame.to_bytes(tokens[name, "in"]))
            missing -= {
                (name, "in")
                for arrival in guests[name].drain()
                if arrival.token == tokens[name, "in"]
            }
        for arrival in outside.drain():
            missing -= {
                (name, "out")
                for name, spec in specs.items()
                if arrival.token == tokens[name, "out"]
                and frames.vids(arrival.tags) == (spec.vlan,)
            }
        if not missing:
            return
        time.sleep(_BEAT_S)
    pytest.fail(f"no frame came through: {sorted(missing)}")
