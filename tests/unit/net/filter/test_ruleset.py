import re
from itertools import product

import pytest

from qemu_node.net.filter.ruleset import Reason, drop_set, frame_chains, table_text


def test_every_reason_has_its_counter_and_a_chain_that_ends_in_a_drop() -> None:
    text = table_text()
    for reason in Reason:
        assert f"set {drop_set(reason)} {{ typeof iifname; counter; }}" in text
        assert f"chain x_{reason} {{ iifname @{drop_set(reason)} drop; drop; }}" in text
        assert f"goto x_{reason}" in text


def test_every_chain_and_set_that_a_rule_names_exists() -> None:
    text = table_text()
    chains = set(re.findall(r"chain (\w+) \{", text))
    sets = set(re.findall(r"(?:set|map) (\w+) \{", text))
    assert set(re.findall(r"(?:goto|jump) (\w+)", text)) <= chains
    assert set(re.findall(r"@(?!nh|th|ll)(\w+)", text)) <= sets
    for is_pinned, is_trunk in product((False, True), repeat=2):
        assert set(frame_chains(is_pinned=is_pinned, is_trunk=is_trunk).values()) <= chains


@pytest.mark.parametrize("kind", ["", "_pinned"])
def test_a_chain_for_frames_goes_on_in_chains_of_its_kind(kind: str) -> None:
    bodies = dict(re.findall(r"chain (\w+) \{(.*?)\n  \}", table_text(), re.DOTALL))
    kinds = {name.removesuffix("_pinned") for name in bodies if name.endswith("_pinned")}
    # These lead to the chain of all kinds when they are done.
    for name in kinds - {"c_na", "c_ns"}:
        led = re.findall(r"(?:goto|jump) (c_\w+)", bodies[name + kind])
        of_kinds = [to for to in led if to.removesuffix("_pinned") in kinds]
        assert all(to.endswith("_pinned") == bool(kind) for to in of_kinds), name


def test_what_a_check_cannot_see_ends_in_a_drop() -> None:
    bodies = dict(re.findall(r"chain (\w+) \{(.*?)\n  \}", table_text(), re.DOTALL))
    last = {name: body.strip().splitlines()[-1].strip() for name, body in bodies.items()}
    checks = {name: rule for name, rule in last.items() if name.startswith("c_")}
    accepting = {name for name, rule in checks.items() if rule == "accept"}
    # What these ask for is there in every frame.
    assert accepting == {"c_other", "c_tag", "c_tag_pinned"}
    assert all(rule.startswith("goto x_") for name, rule in checks.items() if name not in accepting)


def test_no_rule_relies_on_a_dependency_that_misses_tagged_frames() -> None:
    for line in table_text().splitlines():
        if re.search(r"\b(arp saddr|icmpv6 type|ip saddr|ip6 saddr|udp [sd]port|exthdr)\b", line):
            assert "meta protocol" in line or "typeof" in line, line


def test_a_tap_without_elements_gets_nothing_through() -> None:
    [pre] = re.findall(r"chain pre \{(.*?)\n  \}", table_text(), re.DOTALL)
    assert pre.split(";")[-1].split("\n")[-4:] == [
        "    iifname . @ll,48,64 vmap @frames",
        '    iifname != "qn*" accept',
        "    iifname . @ll,48,48 @src_raw goto c_other",
        "    goto x_mac",
    ]


@pytest.mark.parametrize("flags", ["", "owner, persist"])
def test_loading_replaces_rules_and_keeps_elements(flags: str) -> None:
    text = table_text(flags)
    assert "flush table bridge qn\n" in text
    assert "delete" not in text
    assert text.count(f"flags {flags};") == (2 if flags else 0)
