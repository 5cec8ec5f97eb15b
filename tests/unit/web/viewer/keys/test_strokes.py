"""Which texts can be typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.http.problems import Problem
from qemu_node.web.viewer.keys.layouts import Stroke, load
from qemu_node.web.viewer.keys.strokes import TEXT_MAX_BYTES, plan_strokes

US = load("us")


def test_lines_may_end_in_any_way() -> None:
    enter = (Stroke("ret"),)
    assert plan_strokes(US, "a\r\nb\rc\n")[1::2] == [enter, enter, enter]


def test_every_character_without_a_key_is_named_once() -> None:
    with pytest.raises(Problem, match=r"us has no key for ä \(U\+00E4\), \u6f22 .*, U\+001B$"):
        plan_strokes(US, "a\u00e4\u00e4\u6f22\x1bz")


def test_many_of_them_are_counted() -> None:
    with pytest.raises(Problem, match="and 80 more"):
        plan_strokes(US, "".join(chr(0x4E00 + n) for n in range(100)))


@pytest.mark.parametrize("text", ["a" * (TEXT_MAX_BYTES + 1), "ä" * TEXT_MAX_BYTES])
def test_long_text_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="8 KiB"):
        plan_strokes(US, text)


@given(st.text(max_size=200) | st.text(st.characters(exclude_categories=()), max_size=50))
def test_no_text_breaks_it(text: str) -> None:
    refused = None
    try:
        found = plan_strokes(US, text)
    except Problem as exc:
        refused = exc
    else:
        assert len(found) == len(text.replace("\r\n", "\n"))
    assert refused is None or (refused.status, refused.body().message.isprintable()) == (422, True)
