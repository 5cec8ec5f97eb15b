"""Sets of VLANs as people write them: `"100-199"`, `"300"`. Pure.

Owns which VLANs a VM can have, and the two forms of a set: text and numbers. Does not own which
job may use which (`net.policy`) nor what a port carries (`net.port.portplan`).
"""

import re
from collections.abc import Iterable

from qemu_node.errors import ConfigError

VID_MIN = 2
"""VLAN 1 is the default of switches, and of a bridge's new ports."""
VID_MAX = 4094
"""0 means "priority only" and 4095 is reserved (IEEE 802.1Q-2018, table 9-2)."""

_RANGE = re.compile(r"\s*(?P<first>[0-9]{1,4})\s*(?:-\s*(?P<last>[0-9]{1,4})\s*)?")


def is_vid(number: int) -> bool:
    """Tell whether a VM can have the VLAN `number`."""
    return VID_MIN <= number <= VID_MAX


def parse_vlans(words: Iterable[str]) -> frozenset[int]:
    """Return the VLANs in `words`, each of which is a number or an inclusive range.

    Raises:
        ConfigError: a word is neither, a number is not a VLAN of a VM, or a range is reversed.
    """
    found: set[int] = set()
    for word in words:
        match = _RANGE.fullmatch(word)
        if match is None:
            raise ConfigError(f"{word!r} is not a VLAN", hint='write it as "300" or "100-199"')
        first = int(match["first"])
        last = first if match["last"] is None else int(match["last"])
        if not is_vid(first) or not is_vid(last) or last < first:
            raise ConfigError(
                f"{word!r} is not a range of VLANs", hint=f"VLANs are {VID_MIN} to {VID_MAX}"
            )
        found.update(range(first, last + 1))
    return frozenset(found)


def to_ranges(vlans: Iterable[int]) -> list[tuple[int, int]]:
    """Return `vlans` as ranges `(first, last)`, as few as possible, ascending."""
    ranges: list[tuple[int, int]] = []
    for vid in sorted(set(vlans)):
        if ranges and ranges[-1][1] == vid - 1:
            ranges[-1] = (ranges[-1][0], vid)
        else:
            ranges.append((vid, vid))
    return ranges


def format_vlans(vlans: Iterable[int]) -> str:
    """Return `vlans` for people: `"100-199, 300"`."""
    return ", ".join(
        str(first) if first == last else f"{first}-{last}" for first, last in to_ranges(vlans)
    )
