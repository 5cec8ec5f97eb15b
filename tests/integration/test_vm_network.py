"""VMs that are ports of a bridge: real TAPs, a real QEMU, a guest that boots and is reached.

The bridge filters no VLANs, so that these run on any kernel; `tests/network` has those on one that
does.
"""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.fake_qemu import fake_qemu
from integration.plainbridge import PlainBridge
from integration.test_driver_rpcs import NomadNode, driver_on, events, stop
from integration.vmnode import ALLOC_ID, WAIT_S, VMNode, until
from network.namespaces import ip, private_network

from qemu_node.config.network import NetworkConfig
from qemu_node.config.node import Paths
from qemu_node.errors import HostError, NodeError
from qemu_node.host.process import command
from qemu_node.host.process.pidfd import close_descriptors, send_signal
from qemu_node.net.filter.usermode import table_name, table_text
from qemu_node.net.mac import stable_mac
from qemu_node.net.portspec import PortSpec
from qemu_node.nomad.driver.driver import VMDriver
from qemu_node.nomad.proto import driver_pb2
from qemu_node.qemu.accel.accelerator import AcceleratorChoice
from qemu_node.qemu.spec import Accelerator
from qemu_node.vm.life.transitions import VMPhase
from qemu_node.vm.life.usage import Usage
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.vmnetwork import Network

pytestmark = [pytest.mark.needs_qemu, pytest.mark.needs_root, pytest.mark.timeout(600)]

CONFIG = NetworkConfig(bridge="br0", default_vlan=30)
UIDS = range(730_000, 730_100)
"""Of no other node on this machine: the guard stays as long as anything runs as one of them."""
USERS = f"first_uid = {UIDS.start}\nuid_count = {len(UIDS)}"
GUARD = f"table inet {table_name(UIDS)}"
READY = "small guest ready"
POWER_OFF = "#!/bin/sh\npoweroff -f\n"
ADDRESS = "10.9.8.7"
SETUP = f"#!/bin/sh\nip addr add {ADDRESS}/24 dev eth0\n"


@pytest.fixture(autouse=True)
def own_network() -> Iterator[None]:
    """Give the test a network of its own with a bridge, on which the node has an address."""
    with private_network():
        ip("link add br0 type bridge\naddr add 10.9.8.1/24 dev br0\nlink set br0 up")
        yield


@pytest.fixture
def manager(own_network: None) -> PlainBridge:
    return PlainBridge(CONFIG)


@pytest.fixture
async def node(
    short_tmp_path: Path, empty_image: Path, manager: PlainBridge
) -> AsyncIterator[VMNode]:
    node = make_node(short_tmp_path, empty_image, manager)
    yield node
    await node.close()


def make_node(root: Path, image: Path, manager: PlainBridge, program: str | None = None) -> VMNode:
    paths = Paths(run=str(root / "r"), data=str(root / "d"))
    return VMNode(root, image, network=Network(paths, CONFIG, manager), qemu_program=program)


def port(node: VMNode, index: int = 0, **more: Any) -> PortSpec:
    return node.port(30, index, **more)


def taps() -> set[str]:
    return {path.name for path in Path("/sys/class/net").glob("qn*")}


def open_taps() -> int:
    """Return how many descriptors of TAPs this process has."""
    return sum(_is_tap(link) for link in Path("/proc/self/fd").iterdir())


def _is_tap(link: Path) -> bool:
    try:
        return str(link.readlink()) == "/dev/net/tun"
    except OSError:  # the listing's own descriptor
        return False


async def fetch(address: str) -> str:
    """Return what the guest's web server says."""
    reader, writer = await asyncio.open_connection(address, 80)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.decode()


# A VM


async def test_a_guest_with_two_nics_is_reached_through_its_tap(
    short_tmp_path: Path, small_guest_image: Path, manager: PlainBridge
) -> None:
    node = make_node(short_tmp_path, small_guest_image, manager)
    ports = (port(node, 0, queues=2, mtu=1400), port(node, 1))
    vm = await node.start(
        node.request(user_data=f"{SETUP}cat /sys/class/net/eth0/mtu\n", nics=ports)
    )
    assert vm.record.ports == ports
    assert "1400" in await node.printed(READY)
    async with asyncio.timeout(WAIT_S):
        assert vm.record.hostname in await fetch(ADDRESS)
    await node.close()


async def test_the_taps_are_qemu_s_alone_and_go_with_it(node: VMNode, manager: PlainBridge) -> None:
    vm = await node.start(node.request(nics=(port(node, 0, queues=2), port(node, 1))))
    assert taps() == {port(node, 0).ifname, port(node, 1).ifname}
    assert open_taps() == 0
    send_signal(vm.process, signal.SIGKILL)
    await node.ended(vm)
    await until(taps, lambda left: not left, "end of the TAPs")
    await until(lambda: len(manager.detached), lambda count: count == 2, "detached ports")
    await node.supervisor.destroy(vm)
    assert node.leftovers() == []


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Keep the driver from closing its copies of TAPs until this is set."""
    opened = threading.Event()

    def close_then(descriptors: Iterable[int]) -> None:
        opened.wait(WAIT_S)
        close_descriptors(descriptors)

    monkeypatch.setattr("qemu_node.vm.life.control.close_descriptors", close_then)
    yield opened
    opened.set()


async def test_a_stop_does_not_wait_for_the_end_of_the_taps(
    node: VMNode, gate: threading.Event
) -> None:
    vm = await node.start(node.request(nics=(port(node, 0, queues=2), port(node, 1))))
    await vm.stop(0.0)
    await node.supervisor.destroy(vm)
    assert len(taps()) == 2
    gate.set()
    await until(taps, lambda left: not left, "end of the TAPs")
    assert (open_taps(), node.leftovers()) == (0, [])


async def test_the_end_of_a_guest_is_known_before_that_of_its_taps(
    short_tmp_path: Path, small_guest_image: Path, manager: PlainBridge, gate: threading.Event
) -> None:
    node = make_node(short_tmp_path, small_guest_image, manager)
    vm = await node.start(node.request(user_data=POWER_OFF, nics=(port(node),)))
    await node.ended(vm)
    assert len(taps()) == 1
    gate.set()
    await until(taps, lambda left: not left, "end of the TAP")
    await node.close()


async def test_a_start_that_fails_gives_its_ports_up(
    short_tmp_path: Path, empty_image: Path, manager: PlainBridge
) -> None:
    program = fake_qemu(short_tmp_path, "exit 1")
    node = make_node(short_tmp_path, empty_image, manager, program)
    with pytest.raises(HostError, match="during the start"):
        await node.start(node.request(nics=(port(node),)))
    assert manager.detached == [port(node)]
    assert (taps(), open_taps()) == (set(), 0)
    await node.close()


async def test_the_same_task_starts_again_on_the_same_tap(
    node: VMNode, manager: PlainBridge
) -> None:
    for _ in range(2):
        vm = await node.start(node.request(nics=(port(node),)))
        await node.supervisor.destroy(vm)
    assert manager.attached == manager.detached == [port(node), port(node)]


async def test_a_start_in_place_waits_until_the_last_run_has_given_up_its_port(
    node: VMNode, manager: PlainBridge
) -> None:
    vm = await node.start(node.request(nics=(port(node),)))
    manager.detach_may_end.clear()
    # Nomad destroys the ended task before it starts it again; a driver that is told to start all
    # the same does so itself.
    send_signal(vm.process, signal.SIGKILL)
    await node.ended(vm)
    destroying = [asyncio.ensure_future(node.supervisor.destroy(vm)) for _ in range(2)]
    starting = asyncio.ensure_future(node.start(node.request(nics=(port(node),))))
    await until(lambda: vm.life.phase, lambda phase: phase is VMPhase.DESTROYED, "removed files")
    assert manager.calls == ["attach"]
    assert not any(task.done() for task in (starting, *destroying))
    manager.detach_may_end.set()
    await asyncio.gather(starting, *destroying)
    assert manager.calls == ["attach", "detach", "attach"]
    assert node.supervisor.vms == [starting.result()]


async def test_a_recovered_vm_gives_up_its_port_before_its_task_starts_again(
    node: VMNode, manager: PlainBridge, empty_image: Path
) -> None:
    vm = await node.start(node.request(nics=(port(node),)))
    await node.crash()
    send_signal(vm.process, signal.SIGKILL)
    following = make_node(node.root, empty_image, manager)
    recovered = await following.supervisor.recover(vm.state)
    await following.supervisor.destroy(recovered)
    await following.start(following.request(nics=(port(following),)))
    assert manager.calls == ["attach", "detach", "attach"]
    await following.close()


async def test_a_start_gives_up_the_port_of_a_run_that_nobody_ended(
    node: VMNode, manager: PlainBridge, empty_image: Path
) -> None:
    before = port(node, addresses=("192.0.2.1/32",))
    await node.start(node.request(nics=(before,)))
    await node.crash()
    following = make_node(node.root, empty_image, manager)
    await following.start(following.request(nics=(port(following),)))
    assert manager.calls == ["attach", "detach", "attach"]
    assert manager.detached == [before]
    await following.close()


async def test_the_ports_of_a_vm_are_found_again_by_the_next_driver(
    node: VMNode, manager: PlainBridge, empty_image: Path
) -> None:
    vm = await node.start(node.request(nics=(port(node),)))
    await node.crash()
    next_manager = PlainBridge(CONFIG)
    following = make_node(node.root, empty_image, next_manager)
    await following.supervisor.reconcile()
    assert next_manager.reconciled == [(port(node),)]
    recovered = await following.supervisor.recover(vm.state)
    await recovered.stop(0.0)
    await following.supervisor.destroy(recovered)
    assert next_manager.detached == [port(node)]
    await following.supervisor.reconcile()
    assert next_manager.reconciled[-1] == ()
    await following.close()


async def test_what_was_dropped_of_a_vm_s_frames_is_written_down(
    node: VMNode, manager: PlainBridge
) -> None:
    vm = await node.start(node.request(nics=(port(node, 0), port(node, 1))))
    manager.drops = {port(node, n).ifname: {"mac": 2, "arp": 0} for n in (0, 1)}
    node.supervisor.begin()
    await until(vm.directory.usage_json.exists, bool, "usage.json")
    usage = msgspec.json.decode(vm.directory.usage_json.read_bytes(), type=Usage)
    assert usage.drops == {"mac": 4}


# A task


@pytest.fixture
def nomad(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NomadNode:
    """Return a node whose network is the product's own, and on which QEMU is known to work."""

    async def without_proof(*_: object) -> AcceleratorChoice:
        return AcceleratorChoice(accelerator=Accelerator.TCG)

    monkeypatch.setattr("qemu_node.vm.hypervisor.choose_accelerator", without_proof)
    return NomadNode(short_tmp_path)


@pytest.fixture
async def driver(
    nomad: NomadNode, manager: PlainBridge, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[NomadNode, VMDriver]]:
    """Give a driver on a node whose default VLAN is 30."""
    bridged(nomad, manager, monkeypatch)
    async with driver_on(nomad) as driver:
        yield nomad, driver


def bridged(nomad: NomadNode, manager: PlainBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the drivers on a node this network."""
    monkeypatch.setattr("qemu_node.nomad.driver.runtime.PortManager", lambda _config, **_: manager)
    nomad.network = 'bridge = "br0"\ndefault_vlan = 30'
    nomad.configure()


def tables() -> str:
    return command.run_blocking(["nft", "list", "tables"]).stdout.decode().strip()


async def test_a_vm_in_user_mode_starts_on_a_node_that_is_kept_from_it(nomad: NomadNode) -> None:
    nomad.network = ""
    nomad.configure(more=USERS)
    async with driver_on(nomad, keep=True) as driver:
        await driver.start_task(driver_pb2.StartTaskRequest(task=nomad.task()))
        assert tables() == GUARD
    # The VM outlives its driver, and so does what keeps it off the node.
    assert tables() == GUARD
    async with driver_on(nomad) as driver:
        await driver.init(driver_pb2.InitRequest())
        await until(lambda: nomad.vms().running(), lambda running: bool(running), "VM")
        assert tables() == GUARD
        for vm_id in nomad.vms().running():
            state = VMDirectory.of(nomad.vms().paths, vm_id).read_state()
            assert state is not None
            handle = driver_pb2.TaskHandle(config=nomad.task(), driver_state=state.encode())
            await driver.recover_task(driver_pb2.RecoverTaskRequest(handle=handle))
        await stop(driver, 0.0)
        await until(tables, lambda left: left == "", "end of the table")


async def test_a_driver_without_vms_leaves_no_table(nomad: NomadNode) -> None:
    nomad.network = ""
    nomad.configure(more=USERS)
    async with driver_on(nomad) as driver:
        await driver.start_task(driver_pb2.StartTaskRequest(task=nomad.task()))
    assert tables() == ""
    # One that was killed has left it; the next one looks.
    await command.run(["nft", table_text(UIDS, ())])
    assert tables() == GUARD
    async with driver_on(nomad) as driver:
        await driver.init(driver_pb2.InitRequest())
        await until(tables, lambda left: left == "", "end of the table")


async def test_a_bridge_that_is_not_there_is_in_the_health_text(nomad: NomadNode) -> None:
    nomad.network = 'bridge = "br7"\ndefault_vlan = 30'
    nomad.configure()
    async with driver_on(nomad) as driver:
        health = await anext(driver.fingerprint(driver_pb2.FingerprintRequest()))
        with pytest.raises(NodeError):
            await driver.start_task(driver_pb2.StartTaskRequest(task=nomad.task()))
    assert health.health == health.HEALTHY
    assert "the bridge br7 does not exist" in health.health_description
    assert health.attributes["driver.vm.vlans"].string_val == ""
    assert nomad.vms().leftovers() == []


async def test_a_task_without_a_block_is_in_the_default_vlan(
    driver: tuple[NomadNode, VMDriver], manager: PlainBridge
) -> None:
    nomad, vm_driver = driver
    await vm_driver.start_task(driver_pb2.StartTaskRequest(task=nomad.task()))
    assert [(one.vlan, one.mac) for one in manager.attached] == [
        (30, stable_mac(ALLOC_ID, "vm", 0))
    ]


async def test_a_start_waits_for_the_address_to_advertise_and_goes_on_without_it(
    driver: tuple[NomadNode, VMDriver],
) -> None:
    nomad, vm_driver = driver
    task = nomad.task(network=[{"vlan": 30, "advertise": "500ms"}])
    response = await vm_driver.start_task(driver_pb2.StartTaskRequest(task=task))
    assert not response.HasField("network_override")
    told = [event.message for event in await events(vm_driver)]
    assert told[-2].endswith("; waiting up to 0.5 s for its address")
    assert "reported no address" in told[-1]


async def test_a_task_stopped_while_its_address_is_waited_for_leaves_nothing(
    driver: tuple[NomadNode, VMDriver], manager: PlainBridge
) -> None:
    nomad, vm_driver = driver
    task = nomad.task(network=[{"vlan": 30, "advertise": "10m"}])
    starting = asyncio.ensure_future(vm_driver.start_task(driver_pb2.StartTaskRequest(task=task)))
    await until(lambda: nomad.vms().running(), lambda running: bool(running), "VM")
    await until(
        lambda: list((nomad.root / "d" / "vm").glob("*/state.json")), lambda f: bool(f), "state"
    )
    await stop(vm_driver, 5.0)
    with pytest.raises(NodeError, match="was stopped while it was being started"):
        await starting
    assert manager.detached == manager.attached
    await until(taps, lambda left: not left, "end of the TAP")
    assert nomad.vms().leftovers() == []


async def test_a_guest_s_address_is_what_nomad_gets_and_hears_again_from_the_next_driver(
    nomad: NomadNode,
    manager: PlainBridge,
    monkeypatch: pytest.MonkeyPatch,
    small_guest_image: Path,
) -> None:
    bridged(nomad, manager, monkeypatch)
    image = nomad.image.parent / "small.qcow2"
    image.write_bytes(small_guest_image.read_bytes())
    task = nomad.task(image=str(image), network=[{"vlan": 30, "advertise": "5m"}])
    latest = nomad.alloc_dir / "vm" / "local" / "config-drive" / "openstack" / "latest"
    latest.mkdir(parents=True)
    (latest / "user_data").write_text(SETUP)
    async with driver_on(nomad, keep=True) as vm_driver:
        response = await vm_driver.start_task(driver_pb2.StartTaskRequest(task=task))
        assert response.network_override.addr == ADDRESS
        told = [event.message for event in await events(vm_driver)]
        assert told[-1] == f"guest job-group-vm-0 has {ADDRESS}; its services advertise it"
    async with driver_on(nomad) as following:
        request = driver_pb2.RecoverTaskRequest(handle=response.handle)
        await following.recover_task(request)
        async with asyncio.timeout(WAIT_S):
            async for event in following.task_events(driver_pb2.TaskEventsRequest()):
                if event.message == f"guest job-group-vm-0 has {ADDRESS}":
                    break
