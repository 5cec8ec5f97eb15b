from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.config.network import NetworkConfig, NetworkPolicy
from qemu_node.errors import JobError
from qemu_node.net.policy import decide
from qemu_node.net.portspec import NicIdentity, NicWish, PortSpec, UserPort, tap_name

NIC = NicIdentity(vm_id="web-0123456789ab", index=1, mac="02:00:00:00:00:a1")
PROD = NetworkPolicy(namespaces=("prod", "prod-*"), vlans=("100-199",), trunk=True)
GUARDED = NetworkPolicy(
    namespaces=("prod",), vlans=("100-199", "250"), mac=True, addresses=("10.0.0.0/8",)
)
ALL = NetworkPolicy(namespaces=("*",), vlans=("300",))
NODE = NetworkConfig(bridge="br0", uplink="bond0", management_vlan=150, policy=(PROD, GUARDED, ALL))


def port(wish: NicWish, namespace: str = "prod", config: NetworkConfig = NODE) -> PortSpec:
    decided = decide(wish, namespace, config, NIC)
    assert isinstance(decided, PortSpec)
    return decided


def test_an_allowed_vlan_becomes_a_port_with_the_nics_own_name_and_mac() -> None:
    wish = NicWish(vlan=120, isolated=True, queues=4, mtu=9000, rate_mbit=100)
    assert port(wish) == PortSpec(
        vm_id=NIC.vm_id,
        index=1,
        ifname=tap_name(NIC.vm_id, 1),
        mac=NIC.mac,
        vlan=120,
        isolated=True,
        strict=True,
        queues=4,
        mtu=9000,
        rate_mbit=100,
    )


def of(*namespaces: str, vlans: str = "10", strict: bool | None = None) -> NetworkPolicy:
    return NetworkPolicy(namespaces=namespaces, vlans=(vlans,), trunk=True, strict=strict)


@pytest.mark.parametrize(
    ("rules", "default", "is_strict"),
    [
        ([of("one")], 0, False),
        ([of("one"), of("other", vlans="12")], 0, False),
        ([of("one"), of("other", vlans="9-11")], 0, True),
        ([of("one", "other")], 0, True),
        ([of("one*")], 0, True),
        ([of("on?")], 0, True),
        ([of("one")], 10, True),
        ([of("one", strict=True)], 0, True),
        ([of("*", strict=False)], 10, False),
        ([of("one", strict=False), of("other", strict=True)], 0, False),
    ],
)
def test_a_port_is_strict_where_namespaces_share_its_vlan_unless_its_rule_says_otherwise(
    rules: list[NetworkPolicy], default: int, *, is_strict: bool
) -> None:
    config = NetworkConfig(bridge="br0", default_vlan=default, policy=tuple(rules))
    assert port(NicWish(vlan=10), "one", config).strict is is_strict


def test_a_trunk_is_strict_if_one_of_its_vlans_is_shared() -> None:
    config = NetworkConfig(bridge="br0", policy=(of("one", vlans="10-12"), of("other")))
    assert not port(NicWish(trunk=(11, 12)), "one", config).strict
    assert port(NicWish(trunk=(10, 11)), "one", config).strict


def test_in_the_default_vlan_without_any_rule_a_port_is_strict() -> None:
    config = NetworkConfig(bridge="br0", default_vlan=10)
    assert port(NicWish(), "one", config).strict


def test_a_trunk_has_its_vlans_in_order_and_once() -> None:
    decided = port(NicWish(trunk=(110, 101, 110)))
    assert decided.vlan is None
    assert decided.trunk == (101, 110)


def test_the_first_rule_that_allows_all_that_is_asked_decides() -> None:
    assert port(NicWish(vlan=120)).addresses == ()
    assert port(NicWish(vlan=250)).addresses == GUARDED.addresses
    chosen = port(NicWish(vlan=120, mac="52:54:00:12:34:56"))
    assert (chosen.mac, chosen.addresses) == ("52:54:00:12:34:56", GUARDED.addresses)


@pytest.mark.parametrize(
    ("wish", "namespace", "named"),
    [
        (NicWish(vlan=200), "prod-eu", r"policy 1 of node.toml.*'prod-eu'.*VLAN 200$"),
        (NicWish(vlan=100), "dev", r"policy 3 .*VLAN 100$"),
        (NicWish(trunk=(300, 301)), "dev", r"policy 3 .*VLAN 301 and trunks$"),
        (NicWish(trunk=(250, 251)), "prod", "VLAN 250-251 is not allowed"),
        (NicWish(vlan=300, mac="52:54:00:12:34:56"), "dev", "MAC address of the job's choice"),
        (NicWish(vlan=100), "PROD", "policy 3 "),
    ],
)
def test_a_refusal_names_the_rule_the_file_and_what_is_missing(
    wish: NicWish, namespace: str, named: str
) -> None:
    with pytest.raises(JobError, match=named) as refused:
        decide(wish, namespace, NODE, NIC)
    assert "node.toml" in str(refused.value.hint)


def test_without_a_rule_for_the_namespace_no_vlan_is_allowed() -> None:
    config = msgspec.structs.replace(NODE, policy=(PROD,))
    with pytest.raises(JobError, match=r"no network\.policy of node\.toml is for namespace 'dev'"):
        decide(NicWish(vlan=100), "dev", config, NIC)


@pytest.mark.parametrize("wish", [NicWish(vlan=150), NicWish(trunk=(120, 150))])
def test_the_management_vlan_is_refused_although_a_rule_covers_it(wish: NicWish) -> None:
    with pytest.raises(JobError, match="VLAN 150 is refused: it is the node's own"):
        decide(wish, "prod", NODE, NIC)


def test_without_a_bridge_a_vlan_is_impossible_and_user_mode_works() -> None:
    with pytest.raises(JobError, match="no bridge for VMs") as refused:
        decide(NicWish(vlan=100), "prod", NetworkConfig(), NIC)
    assert "network.bridge" in str(refused.value.hint)
    for wish in (NicWish(), NicWish(is_user=True)):
        assert decide(wish, "prod", NetworkConfig(), NIC) == UserPort(
            vm_id=NIC.vm_id, index=1, mac=NIC.mac
        )


def test_a_job_that_names_no_vlan_has_the_nodes_default() -> None:
    config = NetworkConfig(bridge="br0", default_vlan=42)
    assert port(NicWish(), "dev", config).vlan == 42
    assert port(NicWish(vlan=42), "dev", config).vlan == 42
    assert isinstance(decide(NicWish(is_user=True), "dev", config, NIC), UserPort)
    assert isinstance(decide(NicWish(), "dev", NODE, NIC), UserPort)


@pytest.mark.parametrize("wish", [NicWish(mac="52:54:00:12:34:56"), NicWish(trunk=(42,))])
def test_the_default_vlan_gives_nothing_beyond_itself(wish: NicWish) -> None:
    with pytest.raises(JobError, match="not allowed"):
        decide(wish, "dev", NetworkConfig(bridge="br0", default_vlan=42), NIC)


def test_a_rule_for_the_default_vlan_pins_its_addresses() -> None:
    rule = NetworkPolicy(namespaces=("*",), vlans=("42",), addresses=("10.42.0.0/16",))
    config = NetworkConfig(bridge="br0", default_vlan=42, policy=(rule,))
    assert port(NicWish(), "dev", config).addresses == ("10.42.0.0/16",)


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        (NicWish(vlan=100, trunk=(101,)), "vlan and trunk"),
        (NicWish(vlan=100, is_user=True), 'mode = "user" and vlan'),
        (NicWish(vlan=1), "1 is not a VLAN"),
        (NicWish(trunk=(100, 4095)), "4095 is not a VLAN"),
        (NicWish(vlan=100, queues=0), "queues = 0"),
        (NicWish(vlan=100, queues=17), "queues = 17"),
        (NicWish(vlan=100, mtu=576), "mtu = 576"),
        (NicWish(vlan=100, rate_mbit=0), "rate = 0"),
        (NicWish(vlan=250, mac="01:00:5e:00:00:01"), "multicast"),
        (NicWish(is_user=True, isolated=True), "isolated needs a VLAN"),
        (NicWish(mac="52:54:00:12:34:56"), "mac needs a VLAN"),
    ],
)
def test_a_wish_that_contradicts_itself_is_refused(wish: NicWish, named: str) -> None:
    with pytest.raises(JobError, match=named):
        decide(wish, "prod", NODE, NIC)


@pytest.mark.parametrize(
    ("pattern", "namespace", "is_match"),
    [
        ("team-?", "team-a", True),
        ("team-?", "team-ab", False),
        ("*", "", True),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("prod", "prod-eu", False),
    ],
)
def test_only_star_and_question_mark_are_special_in_a_pattern(
    pattern: str, namespace: str, is_match: bool
) -> None:
    rule = NetworkPolicy(namespaces=(pattern,), vlans=("100",))
    config = NetworkConfig(bridge="br0", policy=(rule,))
    if is_match:
        assert port(NicWish(vlan=100), namespace, config).vlan == 100
    else:
        with pytest.raises(JobError):
            decide(NicWish(vlan=100), namespace, config, NIC)


_WISHES = st.builds(
    NicWish,
    is_user=st.booleans(),
    vlan=st.none() | st.integers(0, 4096),
    trunk=st.lists(st.integers(0, 4096), max_size=3).map(tuple),
    mac=st.none() | st.sampled_from(["52:54:00:12:34:56", "nonsense"]),
    isolated=st.booleans(),
    queues=st.integers(0, 20),
)


@given(_WISHES, st.sampled_from(["prod", "prod-x", "dev", ""]), st.sampled_from([0, 42]))
def test_nobody_gets_more_than_one_rule_or_the_default_allows(
    wish: NicWish, namespace: str, default_vlan: int
) -> None:
    config = msgspec.structs.replace(NODE, default_vlan=default_vlan)
    try:
        decided: Any = decide(wish, namespace, config, NIC)
    except JobError:
        return
    if isinstance(decided, UserPort):
        return
    assert config.management_vlan not in decided.vids
    allowed = [
        rule
        for rule in config.policy
        if decided.vids <= rule.vids
        and (rule.trunk or not wish.trunk)
        and (rule.mac or wish.mac is None)
        and rule.addresses == decided.addresses
    ]
    assert allowed or (decided.vids == {default_vlan} and decided.mac == NIC.mac)
