"""Our evaluation of ACL policies against answers of an agent, recorded by `e2e.acl_cases`."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.access.acl.nomadacl import (
    MANAGEMENT,
    NOTHING,
    LevelRules,
    NamespaceRules,
    Rules,
    compile_acl,
    matches,
)

DATA = Path(__file__).parents[4] / "data/acl/answers.json"
CASES: list[dict[str, Any]] = json.loads(DATA.read_text())["cases"]
ASKED = ("read-job", "scale-job")


def rules_of(case: dict[str, Any]) -> list[Rules]:
    return [msgspec.convert(rules, Rules) for rules in case["rules"]]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_answer_is_that_of_nomad(case: dict[str, Any]) -> None:
    acl = compile_acl(rules_of(case))
    assert {
        namespace: [name for name in ASKED if acl.allows(namespace, name)]
        for namespace in case["may"]
    } == case["may"]
    assert acl.may_read_node is case["may_read_node"]


def union(case: dict[str, Any], namespace: str) -> set[str]:
    """Return what all patterns that match say, as if the closest did not count."""
    return {
        capability
        for rules in rules_of(case)
        for entry in rules.namespaces or ()
        if matches(entry.name, namespace)
        for capability in entry.capabilities or ()
    } & set(ASKED)


def test_the_recorded_cases_tell_the_rules_from_simpler_ones() -> None:
    asked = [(case, namespace, may) for case in CASES for namespace, may in case["may"].items()]
    allowed = sum(bool(may) for _, _, may in asked)
    assert 0.2 < allowed / len(asked) < 0.8
    assert sum(set(may) != union(case, namespace) for case, namespace, may in asked) > 50


@given(case=st.sampled_from(CASES), data=st.data())
def test_the_order_of_policies_and_rules_says_nothing(
    case: dict[str, Any], data: st.DataObject
) -> None:
    shuffled = [
        msgspec.structs.replace(
            rules, namespaces=tuple(data.draw(st.permutations(rules.namespaces or ())))
        )
        for rules in data.draw(st.permutations(rules_of(case)))
    ]
    assert compile_acl(shuffled) == compile_acl(rules_of(case))


NAMES = st.text("ab*", min_size=1, max_size=5)
GRANTS = st.lists(st.sampled_from([*ASKED, "deny"]), max_size=3).map(tuple)
RULES = st.builds(
    lambda entries: Rules(namespaces=tuple(NamespaceRules(*entry) for entry in entries)),
    st.lists(st.tuples(NAMES, GRANTS), max_size=6),
)
NAMESPACES = st.text("ab", min_size=1, max_size=6)


@given(policies=st.lists(RULES, max_size=3), namespace=NAMESPACES)
def test_nobody_may_more_than_the_patterns_that_match_say(
    policies: list[Rules], namespace: str
) -> None:
    acl = compile_acl(policies)
    said = {
        capability
        for rules in policies
        for entry in rules.namespaces or ()
        if matches(entry.name, namespace)
        for capability in entry.capabilities or ()
    }
    assert {name for name in ASKED if acl.allows(namespace, name)} <= said


@given(policies=st.lists(RULES, max_size=3), namespace=NAMESPACES)
def test_a_rule_that_denies_a_name_denies_everything_there(
    policies: list[Rules], namespace: str
) -> None:
    denying = Rules(namespaces=(NamespaceRules(namespace, ("deny",)),))
    acl = compile_acl([*policies, denying])
    assert not any(acl.allows(namespace, name) for name in ASKED)


@given(pattern=NAMES, subject=st.text("ab", max_size=6))
def test_a_star_stands_for_any_text(pattern: str, subject: str) -> None:
    """The last part may be found in what an earlier one has taken: go-glob cuts it off before."""
    import re

    expression = "".join(".*" if char == "*" else re.escape(char) for char in pattern)
    assert matches(pattern, subject) == bool(re.fullmatch(expression, subject))


def test_a_level_that_denies_beats_all_others() -> None:
    levels = [Rules(node=LevelRules(level)) for level in ("write", "deny", "read")]
    assert not compile_acl(levels).may_read_node
    assert compile_acl([levels[0], levels[2]]).node == "write"


def test_management_may_everything_and_nobody_nothing() -> None:
    assert MANAGEMENT.allows("any", "alloc-exec")
    assert MANAGEMENT.may_read_node
    assert not NOTHING.allows("any", "read-job")
    assert not NOTHING.may_read_node


def test_whether_any_namespace_allows_it_can_be_asked() -> None:
    acl = compile_acl([Rules(namespaces=(NamespaceRules("a", ("list-jobs",)),))])
    assert acl.allows("*", "list-jobs")
    assert not acl.allows("*", "read-job")
