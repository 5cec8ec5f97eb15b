"""Which images leave the cache, and why. Pure.

Owns the rules, in their order:

1. What a VM uses, what the operator has pinned and what the node prefetches stays.
2. An image that no source gives any more is outdated and goes.
3. An image that no VM has used for long goes.
4. While the file system has less free space than the low mark, the least recently used go until
   the high mark is reached, except those used within the last minutes: a start that had to be
   given up because its download took long finds the image when it is tried again.

A download that has no room has it made by the same rules, as far as it needs and only where that
is enough. A download that broke off and waits to be resumed is taken like an image that was used
when its last byte came.

Does not own finding the facts nor removing anything (`keeper`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

RECENT_S = 600.0
"""How long an image is safe from a lack of space after its last use.

Longer than the delays after which Nomad tries a failed start again by default."""


class Reason(StrEnum):
    """Why an image goes."""

    OUTDATED = "outdated"
    UNUSED = "unused"
    SPACE = "space"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedBlob:
    """One image of the cache, or part of one, as the rules see it."""

    name: str
    allocated_bytes: int
    """What its removal frees."""
    last_used_s: float
    """Unix time; may be in the future where the clock was set back."""
    is_in_use: bool
    is_kept: bool
    """Pinned or prefetched."""
    is_outdated: bool
    """No source is known to give it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When images go for want of use or of space."""

    unused_for_s: float
    low_bytes: int
    """Less free space than this makes unused images go…"""
    high_bytes: int
    """…until this much is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """An image that goes."""

    blob: CachedBlob
    reason: Reason


def plan_eviction(
    blobs: Sequence[CachedBlob], free_bytes: int, limits: Limits, now_s: float
) -> list[Eviction]:
    """Return which of `blobs` go, in this order, where `free_bytes` are free at Unix time `now_s`.

    A last use in the future counts as now: a clock that was set back makes nothing old, and delays
    the removal by what it was set back at most.
    """
    removable = [blob for blob in blobs if not blob.is_in_use and not blob.is_kept]
    plan = []
    rest = []
    for blob in _oldest_first(removable, now_s):
        if blob.is_outdated:
            plan.append(Eviction(blob=blob, reason=Reason.OUTDATED))
        elif _age_s(blob, now_s) >= limits.unused_for_s:
            plan.append(Eviction(blob=blob, reason=Reason.UNUSED))
        else:
            rest.append(blob)
    free_bytes += sum(eviction.blob.allocated_bytes for eviction in plan)
    if free_bytes < limits.low_bytes:
        for blob in rest:
            if free_bytes >= max(limits.high_bytes, limits.low_bytes):
                break
            if _age_s(blob, now_s) >= RECENT_S:
                plan.append(Eviction(blob=blob, reason=Reason.SPACE))
                free_bytes += blob.allocated_bytes
    return plan


def plan_room(
    blobs: Sequence[CachedBlob], free_bytes: int, needed_bytes: int, now_s: float
) -> list[Eviction]:
    """Return which of `blobs` go, in this order, so that `needed_bytes` are free.

    None where they would not be in any case: what is there serves others.
    """
    removable = [blob for blob in blobs if not blob.is_in_use and not blob.is_kept]
    outdated = [blob for blob in removable if blob.is_outdated]
    others = [
        blob for blob in removable if not blob.is_outdated and _age_s(blob, now_s) >= RECENT_S
    ]
    plan = []
    for blob in (*_oldest_first(outdated, now_s), *_oldest_first(others, now_s)):
        if free_bytes >= needed_bytes:
            break
        reason = Reason.OUTDATED if blob.is_outdated else Reason.SPACE
        plan.append(Eviction(blob=blob, reason=reason))
        free_bytes += blob.allocated_bytes
    return plan if free_bytes >= needed_bytes else []


def plan_refresh(blobs: Sequence[CachedBlob], now_s: float) -> list[CachedBlob]:
    """Return the blobs whose last use is to be set to `now_s`.

    That is what a VM uses now, and what claims to have been used in the future: from there its age
    would not grow until the clock has caught up.
    """
    return [blob for blob in blobs if blob.is_in_use or blob.last_used_s > now_s]


def _oldest_first(blobs: Sequence[CachedBlob], now_s: float) -> list[CachedBlob]:
    return sorted(blobs, key=lambda blob: (min(blob.last_used_s, now_s), blob.name))


def _age_s(blob: CachedBlob, now_s: float) -> float:
    return max(now_s - blob.last_used_s, 0.0)
