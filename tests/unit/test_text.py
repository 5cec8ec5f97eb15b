import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.text import nearest, printable, without_login


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


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://h:4646", "http://h:4646"),
        ("http://user:pass@h/x", "http://h/x"),
        ("http://user:a/b@c://d@h", "http://h"),
        ("user:pass@h:4646", "h:4646"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_user_and_password(address: str, shown: str) -> None:
    assert without_login(address) == shown
