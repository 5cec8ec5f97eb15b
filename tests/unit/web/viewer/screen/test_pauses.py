"""When a picture is taken again."""

import pytest

from qemu_node.web.viewer.screen.pauses import FRESH_S, Limits, Pause, Signs

LIMITS = Limits(size_bytes=100, slow_s=0.3, pauses_s=(60.0, 300.0, 1800.0))


def test_the_first_picture_is_due_and_then_it_is_fresh_for_a_while() -> None:
    assert Pause().is_due(0.0)
    taken = Pause().after_success(10.0, took_s=0.01, size_bytes=100, limits=LIMITS)
    assert not taken.is_due(10.0 + FRESH_S - 0.1)
    assert taken.is_due(10.0 + FRESH_S)


@pytest.mark.parametrize(("took_s", "size_bytes"), [(0.31, 1), (0.01, 101)], ids=["slow", "large"])
def test_pictures_that_cost_too_much_are_taken_ever_less_often(
    took_s: float, size_bytes: int
) -> None:
    pause, now_s = Pause(), 0.0
    for wait_s in (60.0, 300.0, 1800.0, 1800.0):
        pause = pause.after_success(now_s, took_s=took_s, size_bytes=size_bytes, limits=LIMITS)
        assert not pause.is_due(now_s + wait_s - 1)
        now_s += wait_s
        assert pause.is_due(now_s)


def test_a_failure_counts_like_one_and_a_good_picture_forgives_all() -> None:
    pause = Pause().after_failure(0.0, LIMITS).after_failure(60.0, LIMITS)
    assert pause.until_s == 360.0
    pause = pause.after_success(360.0, took_s=0.01, size_bytes=1, limits=LIMITS)
    assert pause == Pause(taken_s=360.0)


def test_a_screen_that_stays_the_same_is_looked_at_ever_more_rarely() -> None:
    pause, waits_s = Pause().after_success(0.0, took_s=0.01, size_bytes=1, limits=LIMITS), []
    for _ in range(6):
        now_s = pause.due_s(may_differ=False)
        assert pause.is_due(now_s, may_differ=False)
        assert not pause.is_due(now_s - 0.1, may_differ=False)
        assert pause.taken_s is not None
        waits_s.append(now_s - pause.taken_s)
        # Somebody who has no picture, or who sees that the guest is busy, gets a new one sooner.
        assert pause.due_s(may_differ=True) == pause.taken_s + FRESH_S
        pause = pause.after_success(now_s, took_s=0.01, size_bytes=1, limits=LIMITS, is_same=True)
    assert waits_s == [FRESH_S * times for times in (1, 2, 4, 8, 8, 8)]
    pause = pause.after_success(500.0, took_s=0.01, size_bytes=1, limits=LIMITS)
    assert pause.due_s(may_differ=False) == 500.0 + FRESH_S


@pytest.mark.parametrize(
    ("before", "now", "differ"),
    [
        (Signs(state="running", cpu_pct=1.0), Signs(state="running", cpu_pct=1.9), False),
        (Signs(state="running", cpu_pct=1.0), Signs(state="running", cpu_pct=5.0), True),
        (Signs(state="running", cpu_pct=90.0), Signs(state="running", cpu_pct=2.0), False),
        (Signs(state="running"), Signs(state="running", cpu_pct=80.0), True),
        (Signs(state="running"), Signs(state="paused"), True),
        (Signs(), Signs(), False),
    ],
)
def test_a_guest_that_wakes_up_may_show_something_else(
    before: Signs, now: Signs, differ: bool
) -> None:
    assert now.differ_from(before) is differ
