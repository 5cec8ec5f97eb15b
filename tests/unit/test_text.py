import pytest

from qemu_node.text import nearest


@pytest.mark.parametrize(
    ("word", "meant"),
    [("lst", "list"), ("LIST", "list"), ("list", "list"), ("shw", "show"), ("xyzzy", None)],
)
def test_a_mistyped_word_is_taken_for_the_nearest_known_one(word: str, meant: str | None) -> None:
    assert nearest(word, ["list", "show", "stop"]) == meant


def test_nothing_is_near_where_nothing_is_known() -> None:
    assert nearest("list", []) is None
