from typing import Any

import msgspec
import pytest

from qemu_node.config.network import NetworkConfig, NetworkPolicy
from qemu_node.errors import JobError
from qemu_node.net.portspec import PortSpec, UserPort
from qemu_node.nomad.task.networkblocks import plan_advertise, plan_nics
from qemu_node.nomad.task.options import TaskOptions
from qemu_node.vm.names import TaskIdentity
from qemu_node.vm.start.request import Advertise

_IDENTITY = TaskIdentity(
    alloc_id="11111111-2222-3333-4444-555555555555",
    namespace="prod",
    job_id="shop",
    job_name="shop",
    group="front",
    task="web",
    index=0,
    node_name="node",
)
_NODE = NetworkConfig(
    bridge="br0",
    management_vlan=99,
    policy=(
        NetworkPolicy(namespaces=("prod",), vlans=("100-199",), trunk=True, mac=True),
        NetworkPolicy(namespaces=("*",), vlans=("300",), addresses=("10.3.0.0/16",)),
    ),
)
_WITH_DEFAULT = msgspec.structs.replace(_NODE, default_vlan=50)
_BARE = NetworkConfig()


def _options(*blocks: dict[str, Any], **more: Any) -> TaskOptions:
    return msgspec.convert({"image": "x", "network": blocks, **more}, TaskOptions)


def _plan(
    *blocks: dict[str, Any], network: NetworkConfig = _NODE, **more: Any
) -> tuple[UserPort | PortSpec, ...]:
    options = _options(*blocks, **more)
    nics = plan_nics(options, _IDENTITY, network)
    plan_advertise(options, nics)
    return nics


def test_without_a_block_a_vm_has_one_nic_in_user_mode() -> None:
    (nic,) = _plan(network=_BARE)
    assert isinstance(nic, UserPort)


@pytest.mark.parametrize("blocks", [(), ({},), ({"mode": "vlan"},)])
def test_the_node_s_default_vlan_is_for_who_names_none(blocks: tuple[dict[str, Any], ...]) -> None:
    (nic,) = _plan(*blocks, network=_WITH_DEFAULT)
    assert isinstance(nic, PortSpec)
    assert nic.vlan == 50


def test_user_mode_can_be_asked_for_beside_a_default_vlan() -> None:
    user, port = _plan({"mode": "user"}, {}, network=_WITH_DEFAULT, ports={"http": 80})
    assert isinstance(user, UserPort)
    assert isinstance(port, PortSpec)


def test_every_nic_has_an_address_of_its_own_that_stays() -> None:
    first, second = _plan({"vlan": 100}, {"vlan": 100})
    assert first.mac != second.mac
    assert (first.mac, second.mac) == tuple(nic.mac for nic in _plan({"vlan": 101}, {"vlan": 300}))


def test_a_port_has_all_that_the_block_asks_for() -> None:
    (nic,) = _plan(
        {"trunk": ["110-111", "100"], "isolated": True, "queues": 4, "mtu": 9000, "rate": 500}
    )
    assert isinstance(nic, PortSpec)
    assert (nic.vlan, nic.trunk, nic.isolated) == (None, (100, 110, 111), True)
    assert (nic.queues, nic.mtu, nic.rate_mbit) == (4, 9000, 500)


def test_a_job_s_own_address_replaces_the_derived_one() -> None:
    (nic,) = _plan({"vlan": 100, "mac": "52-54-00-AB-CD-EF"})
    assert nic.mac == "52:54:00:ab:cd:ef"


def test_the_first_rule_that_allows_it_pins_the_addresses() -> None:
    (nic,) = _plan({"vlan": 300})
    assert isinstance(nic, PortSpec)
    assert nic.addresses == ("10.3.0.0/16",)


@pytest.mark.parametrize(
    ("block", "option"),
    [
        ({"vlan": 100}, "vlan"),
        ({"trunk": ["100"]}, "trunk"),
        ({"mac": "52:54:00:12:34:56"}, "mac"),
        ({"isolated": True}, "isolated"),
        ({"queues": 2}, "queues"),
        ({"mtu": 1500}, "mtu"),
        ({"rate": 1}, "rate"),
        ({"advertise": "60s"}, "advertise"),
    ],
)
def test_what_only_a_port_has_is_refused_in_user_mode(block: dict[str, Any], option: str) -> None:
    with pytest.raises(JobError, match=f'option "network.{option}" is for a NIC in a VLAN'):
        _plan({"mode": "user", **block})


@pytest.mark.parametrize(
    ("blocks", "more", "message"),
    [
        ([{"vlan": 100, "trunk": ["101"]}], {}, '"network.vlan" and "network.trunk" are in one'),
        ([{"mode": "vlan"}], {}, '"network.mode" is "vlan" and the block names none'),
        ([{}, {"mode": "user"}], {}, '"network.mode" is "user" for two NICs'),
        ([{"vlan": 100}], {"ports": {"http": 80}}, 'option "ports" needs a NIC in user mode'),
        (
            [{"vlan": 100, "advertise": "1s"}, {"vlan": 101, "advertise": "1s"}],
            {},
            'option "network.advertise" is in two blocks',
        ),
        ([{"advertise": "1s"}], {}, 'option "network.advertise" is for a NIC in a VLAN'),
        (
            [{"vlan": n, "mac": "52:54:00:00:00:01"} for n in (100, 101)],
            {},
            'option "network.mac" gives two NICs the same address',
        ),
        ([{"vlan": 99}], {}, "VLAN 99 is refused"),
        ([{"vlan": 200}], {}, "network.policy 1 of node.toml"),
    ],
)
def test_contradictions_and_refusals_name_what_they_are_about(
    blocks: list[dict[str, Any]], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        _plan(*blocks, **more)


def test_a_vlan_on_a_node_without_a_bridge_says_what_to_configure() -> None:
    with pytest.raises(JobError) as caught:
        _plan({"vlan": 100}, network=_BARE)
    assert "network.bridge in node.toml" in caught.value.explain()


def test_the_nic_to_advertise_is_found_by_its_place() -> None:
    options = _options({"mode": "user"}, {"vlan": 100, "advertise": "90s"})
    nics = plan_nics(options, _IDENTITY, _NODE)
    assert plan_advertise(options, nics) == Advertise(nic=1, wait_s=90.0)
    silent = _options({"vlan": 100})
    assert plan_advertise(silent, plan_nics(silent, _IDENTITY, _NODE)) is None
