"""Which images are removed from the cache, and why. Pure.

Owns the rules, in their order:

1. An image that a VM uses, that is pinned or that is prefetched stays.
2. An outdated image, one that no source serves any more, is removed.
3. An image that no VM has used for `unused_for` is removed.
4. While the file system has less free space than the low mark, the least recently used images are
   removed until the high mark is reached, except those used within the last minutes: a start that
   timed out because its download was slow finds the image when it is tried again.

If a download or a VM needs room, images are removed by the same rules: as many as it needs, and
none if that would not be enough. An interrupted download that can be resumed counts as an image
that was last used when its last byte arrived.

Does not own finding the facts nor removing anything (`keeper`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

RECENT_S = 600.0
"""How long after its last use an image is not removed for lack of space.

Longer than the delays after which Nomad retries a failed start by default."""


class Reason(StrEnum):
    """Why an image is removed."""

    OUTDATED = "outdated"
    UNUSED = "unused"
    SPACE = "space"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evictable:
    """An image of the cache, or a part of one, as the rules see it."""

    name: str
    """Of its file."""
    allocated_bytes: int
    """How much space its removal frees."""
    last_used_at: float
    """Unix time; in the future if the clock was set back."""
    is_in_use: bool = False
    """A VM uses it."""
    is_kept: bool = False
    """It stays although no VM uses it: it is pinned or prefetched."""
    is_outdated: bool = False
    """No source is known to serve it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When images are removed because they are unused, or because space is short."""

    unused_for_s: float
    low_bytes: int
    """With less free space than this, unused images are removed…"""
    high_bytes: int
    """…until this much is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """An image that is to be removed."""

    item: Evictable
    reason: Reason


def plan_eviction(
    items: Sequence[Evictable], free_bytes: int, limits: Limits, now_s: float
) -> list[Eviction]:
    """Return which of `items` to remove, in order, if `free_bytes` are free at Unix time `now_s`.

    A last use in the future counts as now: after a clock was set back, nothing is removed early,
    and nothing later than by the time that it was set back.
    """
    removable = [item for item in items if not item.is_in_use and not item.is_kept]
    plan = []
    rest = []
    for item in _oldest_first(removable, now_s):
        if item.is_outdated:
            plan.append(Eviction(item=item, reason=Reason.OUTDATED))
        elif _age_s(item, now_s) >= limits.unused_for_s:
            plan.append(Eviction(item=item, reason=Reason.UNUSED))
        else:
            rest.append(item)
    free_bytes += sum(eviction.item.allocated_bytes for eviction in plan)
    if free_bytes < limits.low_bytes:
        for item in rest:
            if free_bytes >= max(limits.high_bytes, limits.low_bytes):
                break
            if _age_s(item, now_s) >= RECENT_S:
                plan.append(Eviction(item=item, reason=Reason.SPACE))
                free_bytes += item.allocated_bytes
    return plan


def plan_room(
    items: Sequence[Evictable], free_bytes: int, needed_bytes: int, now_s: float
) -> list[Eviction]:
    """Return which of `items` to remove, in order, so that `needed_bytes` are free.

    None if they would not be free in any case.
    """
    removable = [item for item in items if not item.is_in_use and not item.is_kept]
    outdated = [item for item in removable if item.is_outdated]
    others = [
        item for item in removable if not item.is_outdated and _age_s(item, now_s) >= RECENT_S
    ]
    plan = []
    for item in (*_oldest_first(outdated, now_s), *_oldest_first(others, now_s)):
        if free_bytes >= needed_bytes:
            break
        reason = Reason.OUTDATED if item.is_outdated else Reason.SPACE
        plan.append(Eviction(item=item, reason=reason))
        free_bytes += item.allocated_bytes
    return plan if free_bytes >= needed_bytes else []


def needs_refresh(item: Evictable, now_s: float) -> bool:
    """Tell whether the last use of `item` is to be set to `now_s`.

    That is so if a VM uses it now, or if its last use is in the future: otherwise it would not age
    until the clock has caught up.
    """
    return item.is_in_use or item.last_used_at > now_s


def _oldest_first(items: Sequence[Evictable], now_s: float) -> list[Evictable]:
    return sorted(items, key=lambda item: (min(item.last_used_at, now_s), item.name))


def _age_s(item: Evictable, now_s: float) -> float:
    return max(now_s - item.last_used_at, 0.0)
