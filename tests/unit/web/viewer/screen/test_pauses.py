"""When a picture is taken again."""

import pytest

from qemu_node.web.viewer.screen.pauses import FRESH_S, Limits, Pause

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
