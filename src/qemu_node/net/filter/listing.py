"""What a listing of an nftables table says of its rules. Pure.

Owns comparing a table's rules with themselves at another time. Does not own what is in its sets
(`elements`).
"""

import json
from collections.abc import Mapping
from typing import Any

Rules = tuple[str, ...]


def rules_of(listing: Mapping[str, Any]) -> Rules:
    """Return chains and rules of libnftables' JSON (man 5 libnftables-json), in their order.

    Left out is what differs without anybody having changed a rule: the kernel's numbers, which are
    new when the same rules are loaded again, and what counters have counted.
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
