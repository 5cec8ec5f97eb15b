from typing import Any

from qemu_node.net.filter.listing import rules_of


def listing(*items: dict[str, Any]) -> dict[str, Any]:
    return {"nftables": [{"metainfo": {}}, {"table": {"name": "qn"}}, *items]}


def rule(handle: int, packets: int, verdict: str) -> dict[str, Any]:
    counter = {"counter": {"packets": packets, "bytes": 60 * packets}}
    return {"rule": {"chain": "pre", "handle": handle, "expr": [counter, {verdict: None}]}}


CHAIN = {"chain": {"name": "pre", "handle": 3, "hook": "prerouting", "policy": "accept"}}


def test_the_same_rules_are_the_same_whatever_was_counted_and_when_they_were_loaded() -> None:
    before = listing(CHAIN, rule(4, 0, "drop"))
    again = {"chain": {**CHAIN["chain"], "handle": 9}}
    assert rules_of(before) == rules_of(listing(again, rule(10, 7, "drop")))


def test_a_rule_more_or_fewer_or_in_another_place_is_a_difference() -> None:
    drop, accept = rule(4, 0, "drop"), rule(5, 0, "accept")
    before = rules_of(listing(CHAIN, drop, accept))
    for other in ((CHAIN, drop), (CHAIN, accept, drop), (drop, accept), (CHAIN, drop, drop)):
        assert rules_of(listing(*other)) != before


def test_sets_are_none_of_the_rules() -> None:
    assert rules_of(listing({"set": {"name": "trunk", "elem": ["x"]}})) == ()
