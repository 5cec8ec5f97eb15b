"""Nomad's evaluation of its ACL policies: pure.

Owns what a set of policies allows in a namespace. Does not own which policies a token has
(`nomadtoken`).

Source: Nomad 2.0.6, acl/acl.go (`NewACL`, `AllowNamespaceOperation`, `findClosestMatchingGlob`,
`AllowNodeRead`) and github.com/ryanuber/go-glob 1.0.0. The rules are compared with the answers of a
real agent (`tests/data/acl`). Shorthand (`policy = "read"`) and capabilities that imply others are
already written out in `RulesJSON`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

DENY = "deny"
ANY_NAMESPACE = "*"
"""As a namespace that is asked for, not as a pattern: whether there is one where it is allowed."""

_INSERTION_SORT_MAX = 20


class NamespaceRules(msgspec.Struct, frozen=True, rename="pascal"):
    """The rules of a policy for one pattern of namespaces."""

    name: str
    capabilities: tuple[str, ...] | None = None


class LevelRules(msgspec.Struct, frozen=True, rename="pascal"):
    """Rules that know levels only."""

    policy: str = ""


class Rules(msgspec.Struct, frozen=True, rename="pascal"):
    """`RulesJSON` of a policy, as far as the console asks."""

    namespaces: tuple[NamespaceRules, ...] | None = None
    node: LevelRules | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acl:
    """What somebody is allowed."""

    is_management: bool = False
    namespaces: Mapping[str, frozenset[str]]
    """By name or pattern."""
    node: str = ""
    """`read`, `write`, `deny` or nothing."""
    _found: dict[str, frozenset[str]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By namespace, what was asked for before: a page asks for hundreds of VMs, which are in a few
    namespaces, with each change."""

    def allows(self, namespace: str, capability: str) -> bool:
        """Tell whether `capability` is allowed in `namespace`."""
        if self.is_management:
            return True
        if namespace == ANY_NAMESPACE and any(
            capability in capabilities for capabilities in self.namespaces.values()
        ):
            return True
        found = self._found.get(namespace)
        if found is None:
            found = self._found[namespace] = self._capabilities(namespace)
        return capability in found

    @property
    def may_read_node(self) -> bool:
        """Whether what concerns a node may be read."""
        return self.is_management or self.node in ("read", "write")

    def _capabilities(self, namespace: str) -> frozenset[str]:
        # A name of its own comes before every pattern. In `namespaces` a pattern has a star and a
        # name of a namespace never does.
        if "*" not in namespace and namespace in self.namespaces:
            return self.namespaces[namespace]
        matching = sorted(
            pattern for pattern in self.namespaces if "*" in pattern and matches(pattern, namespace)
        )
        if not matching:
            return frozenset()
        least = min(_difference(pattern, namespace) for pattern in matching)
        closest = [p for p in matching if _difference(p, namespace) == least]
        if len(matching) <= _INSERTION_SORT_MAX:
            # Nomad sorts with `<=` for "less", which turns the order of equal ones: of these the
            # last by name is the first.
            return self.namespaces[closest[-1]]
        # Beyond 20 patterns Go merges sorted blocks, and which of the equal ones comes first is an
        # accident: nothing that only one of them allows.
        return frozenset.intersection(*(self.namespaces[pattern] for pattern in closest))


MANAGEMENT = Acl(is_management=True, namespaces={})
"""Everything is allowed."""

NOTHING = Acl(namespaces={})


def compile_acl(policies: Iterable[Rules]) -> Acl:
    """Return what all of `policies` together allow."""
    namespaces: dict[str, frozenset[str]] = {}
    levels = set()
    for rules in policies:
        for entry in rules.namespaces or ():
            known = namespaces.get(entry.name, frozenset())
            namespaces[entry.name] = known | frozenset(entry.capabilities or ())
        if rules.node is not None:
            levels.add(rules.node.policy)
    denied = frozenset({DENY})
    return Acl(
        namespaces={
            name: denied if DENY in capabilities else capabilities
            for name, capabilities in namespaces.items()
        },
        node=next((level for level in (DENY, "write", "read") if level in levels), ""),
    )


def matches(pattern: str, subject: str) -> bool:
    """Tell whether `subject` matches `pattern`, in which a star stands for any text.

    It does what go-glob does, whose last part may not overlap what an earlier part has taken.
    """
    if pattern == "*":
        return True
    first, *others = pattern.split("*")
    if not others:
        return pattern == subject
    if not subject.startswith(first):
        return False
    rest = subject[len(first) :]
    *middle, last = others
    for part in middle:
        _, found, rest = rest.partition(part) if part else ("", "*", rest)
        if not found:
            return False
    return rest.endswith(last)


def _difference(pattern: str, namespace: str) -> int:
    # Bytes in Go: names of namespaces are ASCII.
    return len(namespace) - len(pattern) + pattern.count("*")
