"""What others take from the ports of VMs comes back at once; what we do is not answered."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from integration.crashing_driver import NETWORK
from integration.vmnode import until
from network.facts import is_untagged, master, set_elements, taps
from network.lab import port_spec
from network.namespaces import bridge, ip

from qemu_node.config.network import NetworkConfig
from qemu_node.config.node import Paths
from qemu_node.host.process.command import run_blocking
from qemu_node.net.filter import filtertable
from qemu_node.net.manager import AttachedPort, PortManager
from qemu_node.vm.vmnetwork import Network

pytestmark = [
    pytest.mark.needs_vlans,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("vlan_bridge"),
]

PORT = port_spec("kept", 1, vlan=30)
TRUNK = port_spec("trunk", 2, vlan=None, trunk=(30, 40))
TAP = PORT.ifname
BRIDGE = f"""link add {NETWORK.bridge} type bridge vlan_filtering 1 vlan_default_pvid 0 \
mcast_snooping 0
link set {NETWORK.uplink} master {NETWORK.bridge}
link set {NETWORK.bridge} up"""


class CountingPorts(PortManager):
    """Counts how often it was asked to reconcile."""

    def __init__(self) -> None:
        super().__init__(NETWORK, identity="test")
        self.reconciled = 0

    async def reconcile(self, *args: Any, **more: Any) -> None:
        await super().reconcile(*args, **more)
        self.reconciled += 1


class Watched:
    """Two ports that somebody watches over."""

    def __init__(self, root: Path) -> None:
        self.manager = CountingPorts()
        self._paths = Paths(run=str(root / "r"), data=str(root / "d"))
        self.network = Network(self._paths, NETWORK, self.manager)
        self.open: list[AttachedPort] = []

    async def attach(self) -> None:
        """Attach both ports; as nobody starts a VM, their descriptors stay ours."""
        self.open = [await self.manager.attach(port) for port in (PORT, TRUNK)]

    async def detach(self) -> None:
        """End both ports."""
        while self.open:
            port = self.open.pop()
            await port.close()
            await self.manager.detach(port.port)


@pytest.fixture
async def watched(vlan_bridge: None, tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path)
    await watched.manager.begin()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watched.network.watch())
        await watched.attach()
        yield watched
        watching.cancel()
    await watched.detach()
    await watched.network.aclose()


def facts() -> tuple[object, ...]:
    """Return how the two ports, the uplink and the filter are."""
    listed = run_blocking(["nft", "list", "tables", "bridge"], check=False).stdout
    if b"qn" not in listed:
        return ("no table",)
    rules = run_blocking(["nft", "list", "chain", "bridge", "qn", "pre"], check=False).stdout
    flags = Path(f"/sys/class/net/{TAP}/flags").read_text()
    return (
        run_blocking(["bridge", "vlan", "show"]).stdout,
        *(master(port.ifname) for port in (PORT, TRUNK)),
        int(flags, 16) & 1,
        rules,
        sorted(element for element in set_elements() if "packets" not in element),
    )


async def assert_it_comes_back(watched: Watched, act: Callable[[], None]) -> None:
    before, reconciled = facts(), watched.manager.reconciled
    act()
    await until(lambda: watched.manager.reconciled, lambda n: n > reconciled, "reconcile")
    await until(facts, lambda found: found == before, "ports as they were")


@pytest.mark.parametrize(
    "command",
    [
        f"vlan del dev {NETWORK.uplink} vid 30",
        f"vlan del dev {TRUNK.ifname} vid 40",
        f"vlan add dev {TAP} vid 99",
        # Without its flags: with a tag from now on.
        f"vlan add dev {TAP} vid 30",
    ],
)
async def test_vlans_come_back(watched: Watched, command: str) -> None:
    await assert_it_comes_back(watched, lambda: bridge(command))


@pytest.mark.parametrize(
    "commands",
    [
        f"link set {TAP} nomaster",
        f"link set {TAP} down",
        f"link set {NETWORK.uplink} nomaster\nlink set {NETWORK.uplink} master {NETWORK.bridge}",
        f"link del {NETWORK.bridge}\n{BRIDGE}",
    ],
)
async def test_ports_come_back(watched: Watched, commands: str) -> None:
    await assert_it_comes_back(watched, lambda: ip(commands))


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "flush table bridge qn",
        "flush map bridge qn frames",
        "flush set bridge qn src_raw",
        f"delete element bridge qn d_mac {{ {TAP} }}",
        "insert rule bridge qn pre accept",
    ],
)
async def test_the_filter_comes_back_where_nobody_can_own_it(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    # As before nft 1.1 and Linux 6.10.
    monkeypatch.setattr(filtertable, "_FLAGS", "")
    await watched.manager.aclose()
    run_blocking(["nft", "delete", "table", "bridge", "qn"])
    await watched.network.reconcile()
    await assert_it_comes_back(watched, lambda: _nft(command))


async def test_a_vlan_that_becomes_the_node_s_own_on_the_uplink_is_not_taken_from_it(
    watched: Watched,
) -> None:
    reconciled = watched.manager.reconciled
    bridge(f"vlan add dev {NETWORK.uplink} vid 50 untagged")
    await until(lambda: watched.manager.reconciled, lambda n: n > reconciled, "reconcile")
    port = await watched.manager.attach(port_spec("late", 3, vlan=50))
    assert is_untagged(NETWORK.uplink, 50)
    await port.close()
    await watched.manager.detach(port.port)
    assert is_untagged(NETWORK.uplink, 50)


def _nft(command: str) -> None:
    run_blocking(["nft", command])


async def test_vms_that_come_and_go_and_reconciles_cause_no_reconcile(watched: Watched) -> None:
    for number in range(3, 8):
        port = await watched.manager.attach(port_spec(f"other{number}", number, vlan=30))
        await watched.network.reconcile()
        await watched.manager.detach(port.port)
        await port.close()
    own = 5
    await assert_all_is_heard(watched)
    assert watched.manager.reconciled == own + 1


async def test_a_restart_in_place_causes_one_reconcile_at_most(watched: Watched) -> None:
    restarts = 5
    for _ in range(restarts):
        await watched.detach()
        await until(taps, lambda left: left == [], "end of the TAPs")
        # What is heard from now on of the end just seen is of a port that is needed again.
        await watched.attach()
    await assert_all_is_heard(watched)
    assert watched.manager.reconciled <= restarts + 1


async def assert_all_is_heard(watched: Watched) -> None:
    """Change something: what is heard is heard in order, so nothing before it is open then."""
    await assert_it_comes_back(watched, lambda: bridge(f"vlan del dev {NETWORK.uplink} vid 40"))


async def test_putting_things_right_is_not_taken_for_a_change_by_others(watched: Watched) -> None:
    changes = 0
    for _ in range(3):
        await assert_it_comes_back(watched, lambda: bridge(f"vlan del dev {TAP} vid 30"))
        await assert_it_comes_back(watched, lambda: ip(f"link set {TAP} nomaster"))
        changes += 2
    # What one change causes may be read in two parts. Answered, its answers would go on and on.
    assert watched.manager.reconciled <= 2 * changes


async def test_a_guard_of_user_mode_is_its_driver_s_alone_and_the_next_one_can_remove_it() -> None:
    uids = range(300_000, 300_010)
    name = f"inet qn_user_{uids.start}_{len(uids)}"

    def is_there() -> bool:
        return name in run_blocking(["nft", "list", "tables"]).stdout.decode()

    first = PortManager(NetworkConfig(), identity="test", uids=uids)
    await first.guard_host()
    # As if it had been killed.
    await first.aclose()
    assert is_there()
    second = PortManager(NetworkConfig(), identity="test", uids=uids)
    await second.reconcile([], has_user_mode=True)
    for command in ("flush ruleset", f"delete table {name}"):
        run_blocking(["nft", command], check=False)
        assert is_there()
    await second.reconcile([])
    assert not is_there()
    await second.aclose()
