from dataclasses import replace

import pytest

from qemu_node.cli.doctor import netchecks
from qemu_node.cli.doctor.checks import Check, Level
from qemu_node.cli.doctor.netchecks import (
    BridgeState,
    NetworkFacts,
    TapUnit,
    UplinkState,
    judge_network,
)
from qemu_node.config.network import NetworkConfig, NetworkPolicy

CONFIG = NetworkConfig(
    bridge="br0",
    uplink="bond0",
    management_vlan=4094,
    policy=(NetworkPolicy(namespaces=("*",), vlans=("100-199",)),),
)
BRIDGE = BridgeState(is_bridge=True, is_up=True, filters_vlans=True, has_own_address=True)
UPLINK = UplinkState(
    master="br0",
    has_carrier=True,
    miimon_ms=100,
    vids=frozenset((4094,)),
    untagged=frozenset((4094,)),
)
GOOD = NetworkFacts(
    bridge=BRIDGE, uplink=UPLINK, tap_unit=TapUnit(path="/usr/lib/00-qn.network", is_unmanaged=True)
)


def bad(config: NetworkConfig, facts: NetworkFacts) -> dict[str, Check]:
    return {
        check.name: check for check in judge_network(config, facts) if check.level is not Level.OK
    }


def test_a_node_as_the_os_image_makes_it_is_found_in_order() -> None:
    assert bad(CONFIG, GOOD) == {}
    names = [check.name for check in judge_network(CONFIG, GOOD)]
    assert len(names) == len(set(names)) == 12


def test_without_a_bridge_only_the_way_to_one_is_told() -> None:
    checks = list(judge_network(NetworkConfig(), NetworkFacts(has_vhost_net=False)))
    assert [check.level for check in checks] == [Level.OK, Level.OK, Level.OK]
    assert netchecks.PAGE in checks[2].detail


@pytest.mark.parametrize(
    ("config", "is_root", "level"),
    [
        (NetworkConfig(), True, Level.FAIL),
        (NetworkConfig(allow_host=True), True, None),
        (NetworkConfig(), False, None),
        (CONFIG, True, Level.FAIL),
    ],
)
def test_nftables_is_needed_wherever_guests_are_kept_from_something(
    config: NetworkConfig, is_root: bool, level: Level | None
) -> None:
    facts = NetworkFacts(has_nftables=False)
    found = {check.name: check for check in judge_network(config, facts, is_root=is_root)}
    assert (found["nftables"].level if "nftables" in found else None) == level


@pytest.mark.parametrize(
    ("name", "level", "facts", "said"),
    [
        ("vhost-net", Level.WARN, replace(GOOD, has_vhost_net=False), "modprobe"),
        ("nftables", Level.FAIL, replace(GOOD, has_nftables=False), "libnftables1"),
        (
            "strict ports",
            Level.FAIL,
            replace(GOOD, missing_modules=("ifb",)),
            "strict = false",
        ),
        ("bridge", Level.FAIL, replace(GOOD, bridge=None), "network.md"),
        ("bridge", Level.FAIL, replace(GOOD, bridge=BridgeState(is_bridge=False)), "node.toml"),
        ("bridge", Level.FAIL, replace(GOOD, bridge=replace(BRIDGE, is_up=False)), "br0 up"),
        (
            "VLANs",
            Level.FAIL,
            replace(GOOD, bridge=replace(BRIDGE, filters_vlans=False)),
            "vlan_filtering 1",
        ),
        ("VLANs", Level.WARN, replace(GOOD, bridge=replace(BRIDGE, default_pvid=1)), "none"),
        (
            "multicast",
            Level.FAIL,
            replace(GOOD, bridge=replace(BRIDGE, snoops_multicast=True)),
            "mcast_snooping 0",
        ),
        (
            "bridge MAC",
            Level.WARN,
            replace(GOOD, bridge=replace(BRIDGE, has_own_address=False)),
            "MACAddress=",
        ),
        ("uplink", Level.FAIL, replace(GOOD, uplink=None), "network.md"),
        ("uplink", Level.FAIL, replace(GOOD, uplink=replace(UPLINK, master="")), "master br0"),
        ("uplink", Level.FAIL, replace(GOOD, uplink=replace(UPLINK, master="br1")), "master br0"),
        (
            "uplink",
            Level.WARN,
            replace(GOOD, uplink=replace(UPLINK, has_carrier=False)),
            "cables",
        ),
        ("uplink", Level.WARN, replace(GOOD, uplink=replace(UPLINK, miimon_ms=0)), "MIIMon"),
        (
            "node's VLAN",
            Level.WARN,
            replace(GOOD, uplink=replace(UPLINK, untagged=frozenset((99,)))),
            "management_vlan = 99",
        ),
        (
            "node's VLAN",
            Level.WARN,
            replace(GOOD, uplink=replace(UPLINK, vids=frozenset(), untagged=frozenset())),
            "qemu-node-uplink",
        ),
        (
            "firewall",
            Level.WARN,
            replace(GOOD, bridge_netfilter=("bridge-nf-call-iptables",)),
            "net.bridge.bridge-nf-call-iptables=0",
        ),
        (
            "networkd",
            Level.WARN,
            replace(GOOD, tap_unit=TapUnit(path="/etc/all.network", is_unmanaged=False)),
            "00-qn-ports",
        ),
    ],
)
def test_each_lack_is_one_check_with_what_to_do(
    name: str, level: Level, facts: NetworkFacts, said: str
) -> None:
    found = bad(CONFIG, facts)
    assert list(found) == [name]
    assert found[name].level is level
    assert said in (found[name].advice or "")


def test_an_uplink_is_optional_and_need_not_be_a_bond() -> None:
    assert bad(replace_config(uplink=""), replace(GOOD, uplink=None)) == {}
    assert bad(CONFIG, replace(GOOD, uplink=replace(UPLINK, miimon_ms=None))) == {}


def test_vlan_1_untagged_on_the_uplink_needs_no_setting() -> None:
    facts = replace(GOOD, uplink=replace(UPLINK, untagged=frozenset((1,))))
    assert bad(replace_config(management_vlan=0), facts) == {}


def test_without_any_rule_the_node_says_so() -> None:
    assert "[[network.policy]]" in (bad(replace_config(policy=()), GOOD)["policy"].advice or "")
    assert bad(replace_config(policy=(), default_vlan=100), GOOD) == {}


def test_vhost_net_is_missed_only_where_it_is_wanted() -> None:
    assert bad(replace_config(vhost="off"), replace(GOOD, has_vhost_net=False)) == {}


def replace_config(**changes: object) -> NetworkConfig:
    import msgspec

    return msgspec.structs.replace(CONFIG, **changes)
