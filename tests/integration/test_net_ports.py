"""Ports that cannot be: whatever is missing, nothing stays behind. (With VLANs: tests/network.)"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from network.namespaces import ip, private_network

from qemu_node.config.network import NetworkConfig
from qemu_node.errors import MissingPartError
from qemu_node.net.errors import NetworkError, NetworkOwnedError
from qemu_node.net.manager import PortManager
from qemu_node.net.netlink.messages import delete_link, set_master
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.portspec import TAP_PREFIX, PortSpec

pytestmark = [pytest.mark.needs_root]

CONFIG = NetworkConfig(bridge="br0", uplink="bond0")
PORT = PortSpec(
    vm_id="web-0123456789ab", index=0, ifname="qn0123456789a00", mac="02:00:00:00:00:a1", vlan=30
)


def run(
    scenario: Callable[[PortManager], Coroutine[Any, Any, None]],
    config: NetworkConfig = CONFIG,
    made: str = "",
) -> None:
    """Run `scenario` in a network of its own, in which there is what `made` makes."""

    async def managed() -> None:
        manager = PortManager(config, identity="test")
        try:
            await scenario(manager)
        finally:
            await manager.aclose()

    # The loop ends first, and its threads with it: they are in the network as well.
    with private_network():
        if made:
            ip(made)
        asyncio.run(managed())


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("", "the bridge br0 does not exist"),
        ("link add br0 type veth peer name other", "br0 is not a bridge"),
        ("link add br0 type bridge mcast_snooping 0", "br0 does not filter VLANs"),
    ],
)
def test_a_bridge_that_keeps_no_vlans_apart_is_refused(made: str, named: str) -> None:
    async def scenario(manager: PortManager) -> None:
        with pytest.raises(MissingPartError, match=named):
            await manager.attach(PORT)
        assert not [name for _, name in socket.if_nameindex() if name.startswith(TAP_PREFIX)]
        assert await manager.counters() == {}
        [problem] = await manager.problems()
        assert named in problem

    run(scenario, made=made)


def test_without_a_bridge_in_node_toml_there_is_no_port_and_no_problem() -> None:
    async def scenario(manager: PortManager) -> None:
        assert await manager.problems() == []
        await manager.begin()
        await manager.reconcile([PORT])
        with pytest.raises(MissingPartError, match="no bridge"):
            await manager.attach(PORT)
        assert await manager.counters() == {}

    run(scenario, NetworkConfig())


def test_reconcile_empties_the_filter_although_the_bridge_is_gone() -> None:
    async def scenario(manager: PortManager) -> None:
        for live in ([PORT], []):
            with pytest.raises(MissingPartError, match="does not exist"):
                await manager.reconcile(live)
            assert set(await manager.counters()) == {port.ifname for port in live}

    run(scenario)


def test_one_driver_at_a_time_manages_the_network_and_the_other_says_so() -> None:
    async def scenario(first: PortManager) -> None:
        await first.begin()
        second = PortManager(CONFIG, identity="test")
        try:
            with pytest.raises(NetworkOwnedError, match="another driver manages"):
                await second.attach(PORT)
            with pytest.raises(NetworkOwnedError):
                await second.reconcile([])
            assert any("another driver manages" in problem for problem in await second.problems())
            await first.aclose()
            # The bridge is not there; but the network is its own now.
            with pytest.raises(MissingPartError, match="does not exist"):
                await second.reconcile([])
            assert not any("another driver" in problem for problem in await second.problems())
        finally:
            await second.aclose()

    run(scenario)


def test_a_driver_in_another_network_namespace_is_no_other_driver() -> None:
    async def scenario(manager: PortManager) -> None:
        await manager.begin()
        await asyncio.to_thread(run, PortManager.begin)

    run(scenario)


def test_a_refusal_is_in_the_kernels_own_words() -> None:
    with (
        private_network(),
        RouteSocket() as route,
        pytest.raises(NetworkError, match=r"cannot join the bridge: \w+"),
    ):
        route.do(set_master(socket.if_nametoindex("lo"), 4711, 65536))


def test_after_a_refusal_the_other_requests_are_done_and_the_first_refusal_is_told() -> None:
    with private_network(), RouteSocket() as route:
        ip("link add gone0 type veth peer name gone1\nlink add br0 type bridge")
        index = socket.if_nametoindex("gone0")
        with pytest.raises(NetworkError, match="cannot join the bridge"):
            route.do(set_master(index, 4711, 1500), delete_link(4712), delete_link(index))
        assert not route.has_link("gone1")
        assert route.has_link("br0")


def test_a_socket_that_was_closed_is_opened_again() -> None:
    with private_network(), RouteSocket() as route:
        assert route.has_link("lo")
        route.close()
        assert route.has_link("lo")


def test_devices_are_read_as_they_are() -> None:
    with private_network(), RouteSocket() as route:
        ip(
            """link add br0 type bridge
            link add port0 type veth peer name other0
            link set port0 master br0 up"""
        )
        links = {link.ifname: link for link in route.read_links()}
        bridge = route.read_bridge("br0")
        assert bridge is not None
        assert bridge.is_bridge
        assert bridge.mtu == 1500
        assert route.read_bridge("absent") is None
    assert links["port0"].master == links["br0"].ifindex
    assert (links["port0"].is_up, links["other0"].is_up) == (True, False)
    assert links["other0"].master == 0
