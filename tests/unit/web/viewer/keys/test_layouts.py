"""What the tables of layouts say, and how they are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.web.viewer.keys import layouts
from qemu_node.web.viewer.keys.layouts import Stroke, load, names, parse

PRINTED = [chr(code) for code in range(32, 127)]


@pytest.mark.parametrize("name", names())
def test_every_layout_types_all_of_ascii(name: str) -> None:
    layout = load(name)
    assert layout.title
    assert [char for char in (*PRINTED, "\n", "\t") if char not in layout.strokes] == []


@pytest.mark.parametrize(
    ("name", "char", "strokes"),
    [
        ("us", "a", [Stroke("a")]),
        ("us", "A", [Stroke("a", shift=True)]),
        ("us", "@", [Stroke("2", shift=True)]),
        ("gb", "@", [Stroke("apostrophe", shift=True)]),
        ("gb", "£", [Stroke("3", shift=True)]),
        ("de", "z", [Stroke("y")]),
        ("de", "@", [Stroke("q", altgr=True)]),
        ("de", "€", [Stroke("e", altgr=True)]),
        ("de", "ß", [Stroke("minus")]),
        ("de", "^", [Stroke("grave_accent"), Stroke("spc")]),
        ("de", "é", [Stroke("equal"), Stroke("e")]),
        ("de", "È", [Stroke("equal", shift=True), Stroke("e", shift=True)]),
        ("de", "|", [Stroke("less", altgr=True)]),
        ("fr", "a", [Stroke("q")]),
        ("fr", "1", [Stroke("1", shift=True)]),
        ("fr", "é", [Stroke("2")]),
        ("fr", "ê", [Stroke("bracket_left"), Stroke("e")]),
        ("fi", "@", [Stroke("2", altgr=True)]),
        ("fi", "ä", [Stroke("apostrophe")]),
        ("fi", "~", [Stroke("bracket_right", altgr=True), Stroke("spc")]),
        ("se", "å", [Stroke("bracket_left")]),
        ("se", "\\", [Stroke("minus", altgr=True)]),
        ("us", "\n", [Stroke("ret")]),
    ],
)
def test_what_is_printed_on_the_keys(name: str, char: str, strokes: list[Stroke]) -> None:
    assert list(load(name).strokes[char]) == strokes


def test_an_accent_that_guests_do_not_agree_on_is_not_typed_alone() -> None:
    rows = (
        "# Test. Made by hand.",
        "# key",
        "equal\tdead_acute\tdead_grave\tnone\tnone",
        "spc\tspace\tspace\tnone\tnone",
    )
    layout = parse("test", "\n".join(rows))
    assert "\u00b4" not in layout.strokes
    assert layout.strokes["`"] == (Stroke("equal", shift=True), Stroke("spc"))


@given(st.sampled_from(names()), st.data())
def test_whatever_is_typed_no_key_stays_down(name: str, data: st.DataObject) -> None:
    layout = load(name)
    for stroke in layout.strokes[data.draw(st.sampled_from(sorted(layout.strokes)))]:
        down: list[str] = []
        for key, is_down in stroke.keys:
            if is_down:
                down.append(key)
            else:
                assert down.pop() == key
        assert down == []


@given(st.sampled_from(names()))
def test_two_characters_never_have_the_same_strokes(name: str) -> None:
    strokes = list(load(name).strokes.values())
    assert len(set(strokes)) == len(strokes)


def test_a_layout_that_is_not_there_is_not_looked_for_elsewhere() -> None:
    for name in ("../data/us", "xx", "COPYING", ""):
        with pytest.raises(KeyError):
            layouts.load(name)
