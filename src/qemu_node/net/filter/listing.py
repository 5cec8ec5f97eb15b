"""The rules in a listing of an nftables table. Pure.

Owns the form in which a table's rules can be compared over time. Does not own what is in its sets
(`elements`).
"""

import json
from collections.abc import Mapping
from typing import Any

Rules = tuple[str, ...]


def rules_of(listing: Mapping[str, Any]) -> Rules:
    """Return the chains and rules in libnftables' JSON (man 5 libnftables-json), in order.

    Handles and counters are left out: they differ although no rule was changed.
    """
    return tuple(
        json.dumps(_without_numbers(item), sort_keys=True)
        for item in listing["nftables"]
        if "chain" in item or "rule" in item
    )


def _without_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: None if key == "counter" else _without_numbers(inner)
            for key, inner in value.items()
            if key != "handle"
        }
    return [_without_numbers(inner) for inner in value] if isinstance(value, list) else value
