from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from qemu_node.images.store.eviction import (
    RECENT_S,
    Evictable,
    Limits,
    Reason,
    needs_refresh,
    plan_eviction,
    plan_room,
)

NOW_S = 1_000_000.0
WEEK_S = 7 * 86400.0
ROOMY = Limits(unused_for_s=WEEK_S, low_bytes=0, high_bytes=0)


blobs = st.lists(
    st.builds(
        Evictable,
        name=st.text("abcdef", min_size=1, max_size=8),
        allocated_bytes=st.integers(0, 1 << 40),
        last_used_at=st.floats(0, 2 * NOW_S),
        is_in_use=st.booleans(),
        is_kept=st.booleans(),
        is_outdated=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda blob: blob.name,
)
limits = st.builds(
    Limits,
    unused_for_s=st.floats(0, NOW_S),
    low_bytes=st.integers(0, 1 << 42),
    high_bytes=st.integers(0, 1 << 42),
)
free = st.integers(0, 1 << 42)


def blob(name: str, *, age_s: float = 3600.0, size: int = 100) -> Evictable:
    return Evictable(
        name=name,
        allocated_bytes=size,
        last_used_at=NOW_S - age_s,
        is_in_use=False,
        is_kept=False,
        is_outdated=False,
    )


def plan(
    *found: Evictable, free_bytes: int = 1000, limits: Limits = ROOMY
) -> list[tuple[str, Reason]]:
    return [
        (eviction.item.name, eviction.reason)
        for eviction in plan_eviction(found, free_bytes, limits, NOW_S)
    ]


def test_outdated_image_goes_at_once() -> None:
    assert plan(replace(blob("a", age_s=0), is_outdated=True)) == [("a", Reason.OUTDATED)]


def test_image_goes_once_unused_for_long() -> None:
    assert plan(blob("young", age_s=WEEK_S - 1), blob("old", age_s=WEEK_S)) == [
        ("old", Reason.UNUSED)
    ]


def test_below_the_low_mark_the_least_recently_used_go_until_the_high_mark() -> None:
    found = [blob("3rd", age_s=4000), blob("1st", age_s=6000), blob("2nd", age_s=5000)]
    limits = Limits(unused_for_s=WEEK_S, low_bytes=1001, high_bytes=1200)
    assert plan(*found, limits=limits) == [("1st", Reason.SPACE), ("2nd", Reason.SPACE)]


def test_at_the_low_mark_nothing_goes_for_space() -> None:
    limits = Limits(unused_for_s=WEEK_S, low_bytes=1000, high_bytes=5000)
    assert plan(blob("a"), limits=limits) == []


def test_what_goes_anyway_counts_towards_the_space() -> None:
    limits = Limits(unused_for_s=WEEK_S, low_bytes=1100, high_bytes=1100)
    old = blob("old", age_s=WEEK_S)
    assert plan(old, blob("a"), limits=limits) == [("old", Reason.UNUSED)]


def test_image_that_a_start_is_about_to_ask_for_again_does_not_go_for_space() -> None:
    limits = Limits(unused_for_s=WEEK_S, low_bytes=5000, high_bytes=5000)
    assert plan(blob("a", age_s=RECENT_S - 1), limits=limits) == []
    assert plan(blob("a", age_s=RECENT_S), limits=limits) == [("a", Reason.SPACE)]


def test_clock_that_was_set_back_makes_nothing_old() -> None:
    assert plan(blob("future", age_s=-WEEK_S * 100)) == []
    assert needs_refresh(blob("future", age_s=-1.0), NOW_S)
    assert not needs_refresh(blob("past", age_s=1.0), NOW_S)


def test_use_goes_on_as_long_as_a_vm_runs() -> None:
    used = replace(blob("a", age_s=WEEK_S * 100), is_in_use=True)
    assert plan(used) == []
    assert needs_refresh(used, NOW_S)


@given(blobs, free, limits, st.floats(0, 2 * NOW_S))
def test_what_is_used_pinned_or_prefetched_never_goes(
    found: list[Evictable], free_bytes: int, limits: Limits, now_s: float
) -> None:
    for eviction in plan_eviction(found, free_bytes, limits, now_s):
        assert not eviction.item.is_in_use
        assert not eviction.item.is_kept


@given(blobs, free, limits, st.floats(0, 2 * NOW_S))
def test_each_image_goes_once_and_every_outdated_unused_one_goes(
    found: list[Evictable], free_bytes: int, limits: Limits, now_s: float
) -> None:
    names = [e.item.name for e in plan_eviction(found, free_bytes, limits, now_s)]
    assert len(names) == len(set(names))
    outdated = {b.name for b in found if b.is_outdated and not b.is_in_use and not b.is_kept}
    assert outdated <= set(names)


@given(blobs, free, limits)
def test_space_takes_no_more_than_it_needs(
    found: list[Evictable], free_bytes: int, limits: Limits
) -> None:
    evictions = plan_eviction(found, free_bytes, limits, NOW_S)
    for_space = [e.item for e in evictions if e.reason is Reason.SPACE]
    if not for_space:
        return
    before = free_bytes + sum(e.item.allocated_bytes for e in evictions)
    before -= sum(blob.allocated_bytes for blob in for_space)
    assert before < limits.low_bytes
    without_last = before + sum(blob.allocated_bytes for blob in for_space[:-1])
    assert without_last < max(limits.high_bytes, limits.low_bytes)
    assert for_space == sorted(for_space, key=lambda b: (min(b.last_used_at, NOW_S), b.name))


def room(*found: Evictable, needed_bytes: int) -> list[tuple[str, Reason]]:
    return [
        (eviction.item.name, eviction.reason)
        for eviction in plan_room(found, 1000, needed_bytes, NOW_S)
    ]


def test_room_is_made_of_outdated_images_first_and_then_of_the_least_recently_used() -> None:
    outdated = replace(blob("outdated", age_s=0), is_outdated=True)
    found = [blob("3rd", age_s=4000), outdated, blob("2nd", age_s=5000)]
    assert room(*found, needed_bytes=1000) == []
    assert room(*found, needed_bytes=1100) == [("outdated", Reason.OUTDATED)]
    assert room(*found, needed_bytes=1101)[1:] == [("2nd", Reason.SPACE)]


def test_nothing_goes_for_room_that_cannot_be_made() -> None:
    found = [blob("a"), blob("recent", age_s=RECENT_S - 1), replace(blob("b"), is_in_use=True)]
    assert room(*found, needed_bytes=1101) == []


@given(blobs, free, st.integers(0, 1 << 43), st.floats(0, 2 * NOW_S))
def test_room_takes_what_is_needed_of_what_nobody_needs(
    found: list[Evictable], free_bytes: int, needed_bytes: int, now_s: float
) -> None:
    gone = [e.item for e in plan_room(found, free_bytes, needed_bytes, now_s)]
    assert not any(each.is_in_use or each.is_kept for each in gone)
    assert len({each.name for each in gone}) == len(gone)
    if gone:
        freed = [free_bytes + sum(b.allocated_bytes for b in gone[:n]) for n in range(len(gone))]
        assert all(before < needed_bytes for before in freed)
        assert freed[-1] + gone[-1].allocated_bytes >= needed_bytes


@given(blobs, free, limits, st.floats(0, NOW_S), st.floats(0, NOW_S))
def test_an_earlier_clock_removes_nothing_more(
    found: list[Evictable], free_bytes: int, limits: Limits, now_s: float, back_s: float
) -> None:
    limits = replace(limits, low_bytes=0)
    later = {e.item.name for e in plan_eviction(found, free_bytes, limits, now_s)}
    earlier = plan_eviction(found, free_bytes, limits, max(now_s - back_s, 0.0))
    assert {e.item.name for e in earlier} <= later
