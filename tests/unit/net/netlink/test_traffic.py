import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.netlink.messages import Request, attributes, pick
from qemu_node.net.netlink.traffic import police, redirect, redirected_to


def as_told(request: Request) -> bytes:
    """Return what the kernel answers of a filter that was made so."""
    return request.body


def test_where_a_filter_leads_is_read_as_it_was_asked_for() -> None:
    answers = [as_told(redirect(7, target)[-1]) for target in (9, 70_000)]
    assert list(redirected_to(answers)) == [9, 70_000]
    assert list(redirected_to([as_told(police(7, 1000, 1000, 1000)[-1])])) == []


def test_a_policer_is_asked_before_a_redirect_and_lets_what_it_allows_go_on() -> None:
    limit, way_out = police(7, 1000, 1000, 1000)[-1], redirect(7, 9)[-1]
    priorities = [struct.unpack_from("=I", one.body, 16)[0] >> 16 for one in (limit, way_out)]
    assert priorities == sorted(priorities)
    action = dict(attributes(pick(pick(limit.body[20:], 2)[2], 2)[2]))[1]
    options = dict(attributes(pick(action, 2)[2]))
    assert struct.unpack("=i", options[5]) == (-1,)  # TC_ACT_UNSPEC: ask the next one


@pytest.mark.parametrize("mbit", [1, 1000, 32_000])
def test_a_burst_is_told_as_the_time_that_it_takes(mbit: int) -> None:
    rate = mbit * 125_000
    action = dict(attributes(pick(pick(police(7, rate, rate, 1)[-1].body[20:], 2)[2], 2)[2]))[1]
    parameters = pick(pick(action, 2)[2], 1)[1]
    _, _, _, burst, _ = struct.unpack_from("=IiIII", parameters)
    assert len(parameters) == 56
    assert burst == 1_000_000_000 // 64
    assert struct.unpack_from("=I", parameters, 28) == (rate,)


@given(st.lists(st.binary(max_size=200)))
def test_any_answer_is_read_to_its_end(answers: list[bytes]) -> None:
    assert all(target >= 0 for target in redirected_to(answers))
