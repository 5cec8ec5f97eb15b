import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.text import nearest, printable


@pytest.mark.parametrize(
    ("word", "meant"),
    [("lst", "list"), ("LIST", "list"), ("list", "list"), ("shw", "show"), ("xyzzy", None)],
)
def test_a_mistyped_word_is_taken_for_the_nearest_known_one(word: str, meant: str | None) -> None:
    assert nearest(word, ["list", "show", "stop"]) == meant


def test_nothing_is_near_where_nothing_is_known() -> None:
    assert nearest("list", []) is None


@settings(max_examples=200)
@given(st.text())
def test_printable_text_is_one_bounded_line(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text * 100)) <= 400
