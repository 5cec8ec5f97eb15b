"""What a PromQL expression asks for, by a parser of PromQL."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser

_VARIABLES = {
    "$__rate_interval": "5m",
    "$__interval": "1m",
    "$job": "qemu-node",
    "$instance": ".*",
    "$vm": ".*",
}
_GROUPS = re.compile(r"\b(?:by|on|group_left|ignoring|without)\s*\(([^)]*)\)")
_LEGEND = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


@dataclass(frozen=True)
class Query:
    """An expression that was parsed."""

    metrics: frozenset[str]
    labels: frozenset[str]
    """By which it groups and joins."""
    matchers: frozenset[tuple[str, str, str]]
    """Metric, label, value."""


def read_query(text: str) -> Query:
    """Return what `text` asks for.

    Raises:
        ValueError: it is no PromQL.
    """
    for variable, value in _VARIABLES.items():
        text = text.replace(variable, value)
    selectors = list(_selectors(promql_parser.parse(text)))
    return Query(
        metrics=frozenset(selector.name for selector in selectors),
        labels=frozenset(
            name.strip() for group in _GROUPS.findall(text) for name in group.split(",")
        ),
        matchers=frozenset(
            (selector.name, matcher.name, matcher.value)
            for selector in selectors
            for matcher in selector.matchers.matchers
        ),
    )


def labels_of_text(text: str) -> set[str]:
    """Return the labels that a legend or an annotation shows."""
    return set(_LEGEND.findall(text)) - {"value"}


def _selectors(node: Any) -> Iterator[Any]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    children = [getattr(node, name, None) for name in ("lhs", "rhs", "vector_selector", "param")]
    # Of a matrix selector `expr` is its text.
    children += [getattr(node, "expr", None), *(getattr(node, "args", None) or [])]
    for child in children:
        if child is not None and not isinstance(child, str | float | int):
            yield from _selectors(child)
