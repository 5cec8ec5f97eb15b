import asyncio
import os
from pathlib import Path

import msgspec
import pytest
from fakes.fake_ports import FakePorts
from fakes.published import make_record, publish

from qemu_node.config.network import NetworkConfig
from qemu_node.config.node import Paths
from qemu_node.errors import HostError, JobError, MissingPartError
from qemu_node.net.errors import NftMissingError
from qemu_node.net.portspec import PortSpec
from qemu_node.vm.record.record import NicRecord
from qemu_node.vm.vmnetwork import LiveVMs, Network, next_pause

CONFIG = NetworkConfig(bridge="br0")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=str(tmp_path / "r"), data=str(tmp_path / "d"))


def port(number: int, *, vm_id: str = "web-0123456789ab", mac: int | None = None) -> PortSpec:
    return PortSpec(
        vm_id=vm_id,
        index=number,
        ifname=f"qn{number}",
        mac=f"02:00:00:00:00:{number if mac is None else mac:02x}",
        vlan=30,
    )


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_ports_are_handed_over_with_their_descriptors_and_closed_once(paths: Paths) -> None:
    network = Network(paths, CONFIG, FakePorts())
    ports = await network.attach([port(1), port(2)])
    assert [tap.ifname for tap in ports.taps] == ["qn1", "qn2"]
    fds = ports.all_fds
    assert all(is_open(fd) for fd in fds)
    await ports.close()
    assert not any(is_open(fd) for fd in fds)
    await ports.close()


async def test_a_port_that_is_refused_takes_the_others_with_it(paths: Paths) -> None:
    manager = FakePorts(refused=["qn2"])
    network = Network(paths, CONFIG, manager)
    with pytest.raises(HostError, match="qn2 is refused"):
        await network.attach([port(1), port(2)])
    assert manager.attached == {}
    # Nor is its address taken any more.
    await (await network.attach([port(3, vm_id="other-0123456789ab", mac=1)])).close()


async def test_two_vms_cannot_have_one_address_even_if_they_start_at_once(paths: Paths) -> None:
    network = Network(paths, CONFIG, FakePorts())
    results = await asyncio.gather(
        network.attach([port(1)]),
        network.attach([port(2, vm_id="other-0123456789ab", mac=1)]),
        return_exceptions=True,
    )
    [refusal] = [result for result in results if isinstance(result, JobError)]
    assert "02:00:00:00:00:01 is in use on this node by VM" in str(refusal)


async def test_an_address_of_a_vm_of_an_earlier_driver_is_taken(paths: Paths) -> None:
    other = port(1, vm_id="old-0123456789ab")
    record = make_record(paths, other.vm_id, nics=(NicRecord.of_port(other),))
    publish(paths, record)
    network = Network(paths, CONFIG, FakePorts())
    with pytest.raises(JobError, match="in use on this node by VM old-0123456789ab"):
        await network.attach([port(2, mac=1)])


async def test_a_restart_in_place_keeps_its_address(paths: Paths) -> None:
    network = Network(paths, CONFIG, FakePorts())
    await (await network.attach([port(1)])).close()
    await network.detach([port(1)])
    await (await network.attach([port(1)])).close()


async def test_a_port_that_is_not_let_go_is_left_to_reconcile(paths: Paths) -> None:
    network = Network(paths, CONFIG, FakePorts(undetachable=["qn1"]))
    await (await network.attach([port(1)])).close()
    await network.detach([port(1)])


async def test_reconcile_is_told_the_ports_of_vms_that_live(paths: Paths) -> None:
    first, second = port(1, vm_id="web-0123456789ab"), port(2, vm_id="gone-0123456789ab")
    publish(paths, make_record(paths, first.vm_id, nics=(NicRecord.of_port(first),)))
    dead = make_record(paths, second.vm_id, nics=(NicRecord.of_port(second),))
    publish(paths, msgspec.structs.replace(dead, start_time=1))
    manager = FakePorts()
    await Network(paths, CONFIG, manager).reconcile()
    assert [item.ifname for item in manager.live] == ["qn1"]


async def test_a_vm_that_was_taken_up_from_other_paths_keeps_its_ports_until_it_ends(
    paths: Paths, tmp_path: Path
) -> None:
    elsewhere = Paths(run=str(tmp_path / "r2"), data=str(tmp_path / "d2"))
    record = make_record(
        elsewhere, nics=(NicRecord.of_port(port(1)), NicRecord(mode="user", mac=""))
    )
    manager = FakePorts()
    network = Network(paths, CONFIG, manager)
    network.adopt(record)
    await network.reconcile()
    assert [item.ifname for item in manager.live] == ["qn1"]
    assert manager.guards == [True]
    network.disown(record.vm_id)
    await network.reconcile()
    assert manager.live == []
    assert manager.guards == [True, False]


async def test_the_ports_of_a_vm_of_a_newer_driver_are_kept(paths: Paths) -> None:
    record = make_record(paths, nics=(NicRecord.of_port(port(1)),))
    directory = publish(paths, record)
    newer = msgspec.json.decode(directory.state_file.read_bytes()) | {"version": 99, "scope": 1}
    directory.state_file.write_bytes(msgspec.json.encode(newer))
    manager = FakePorts()
    await Network(paths, CONFIG, manager).reconcile()
    assert [item.ifname for item in manager.live] == ["qn1"]


async def test_no_port_is_taken_away_while_a_vm_lives_whose_ports_are_not_known(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(paths)
    directory = publish(paths, record)
    for file in (directory.state_file, directory.vm_json):
        file.write_bytes(b"")
    manager = FakePorts()
    monkeypatch.setattr("qemu_node.vm.vmnetwork.running_vm_ids", lambda _: {record.vm_id})
    with pytest.raises(HostError, match=record.vm_id):
        await Network(paths, CONFIG, manager).reconcile()
    assert manager.calls == []
    # It has ended: its files wait for the reconciler, and keep nobody from anything.
    monkeypatch.setattr("qemu_node.vm.vmnetwork.running_vm_ids", lambda _: set())
    await Network(paths, CONFIG, manager).reconcile()
    assert manager.calls == ["reconcile"]


async def test_a_vm_that_ends_while_others_are_looked_at_is_not_taken_for_live_afterwards(
    paths: Paths,
) -> None:
    ended = port(1)
    publish(paths, make_record(paths, ended.vm_id, nics=(NicRecord.of_port(ended),)))
    manager = FakePorts()
    network = Network(paths, CONFIG, manager)
    manager.reconcile_may_end.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(network.reconcile())
        await asyncio.sleep(0)
        tasks.create_task(network.detach([ended]))
        while not network._looking._waiters:
            await asyncio.sleep(0)
        manager.reconcile_may_end.set()
    assert manager.calls == ["reconcile", "detach"]


USER = "old-0123456789ab"


async def test_the_guard_of_user_mode_goes_with_the_last_vm_that_needs_it(paths: Paths) -> None:
    manager = FakePorts()
    network = Network(paths, CONFIG, manager)
    await network.guard_host("web-0123456789ab")
    await network.guard_host("db-0123456789ab")
    await network.unguard_host("web-0123456789ab")
    await network.reconcile()
    assert manager.guards == [True, True, True]
    await network.unguard_host("db-0123456789ab")
    await network.reconcile()
    assert manager.guards == [True, True, True, False, False]


async def test_the_end_of_a_vm_reads_no_other_state_while_the_guard_is_needed(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Paths] = []

    def live_vms(paths: Paths) -> LiveVMs:
        read.append(paths)
        return LiveVMs(records=(), unknown=())

    monkeypatch.setattr("qemu_node.vm.vmnetwork.live_vms", live_vms)
    network = Network(paths, CONFIG, FakePorts())
    await network.guard_host("web-0123456789ab")
    await network.guard_host("db-0123456789ab")
    network.adopt(make_record(paths, USER))
    await network.unguard_host("web-0123456789ab")
    await network.unguard_host("db-0123456789ab")
    assert read == []
    network.disown(USER)
    await network.unguard_host(USER)
    assert read == [paths]


async def test_the_guard_stays_at_the_driver_s_end_while_a_vm_needs_it(paths: Paths) -> None:
    publish(paths, make_record(paths, USER))
    manager = FakePorts()
    network = Network(paths, CONFIG, manager)
    await network.guard_host("web-0123456789ab")
    await network.aclose()
    assert manager.guards == [True]
    # The next driver, which has started none itself.
    await Network(paths, CONFIG, manager).reconcile()
    assert manager.guards == [True, True]


async def test_the_guard_goes_with_a_driver_without_vms_in_user_mode(paths: Paths) -> None:
    port_only = make_record(paths, USER, nics=(NicRecord.of_port(port(1)),))
    publish(paths, port_only)
    manager = FakePorts()
    await Network(paths, CONFIG, manager).aclose()
    assert manager.guards == [False]


async def test_user_mode_is_refused_where_the_node_cannot_be_guarded(paths: Paths) -> None:
    problem = NftMissingError("libnftables is missing", hint="apt install libnftables1")
    with pytest.raises(MissingPartError) as caught:
        await Network(paths, CONFIG, FakePorts(guard_problem=problem)).guard_host(
            "web-0123456789ab"
        )
    assert "apt install libnftables1" in caught.value.explain()
    assert "network.allow_host = true" in caught.value.explain()
    allowed = NetworkConfig(allow_host=True)
    await Network(paths, allowed, FakePorts(guard_problem=problem)).guard_host("web-0123456789ab")


async def test_without_root_there_are_no_vlans_and_that_is_said(paths: Paths) -> None:
    network = Network(paths, CONFIG, None)
    with pytest.raises(MissingPartError, match="only root can give a VM a VLAN"):
        await network.attach([port(1)])
    assert (await network.attach([])).all_fds == []
    await network.guard_host("web-0123456789ab")
    await network.reconcile()
    assert await network.drops() == {}
    assert await network.problems() == ["VMs cannot use the bridge br0: the driver is not root"]


def test_somebody_who_takes_away_again_and_again_is_answered_more_and_more_rarely() -> None:
    pauses = [next_pause(0.25, quiet_s=60.0)]
    for _ in range(10):
        pauses.append(next_pause(pauses[-1], quiet_s=0.1))
    assert pauses[0] < pauses[3] < pauses[6]
    assert pauses[-1] == pauses[-2] == 30.0
    assert next_pause(pauses[-1], quiet_s=31.0) == pauses[0]
