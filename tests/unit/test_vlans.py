import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import ConfigError
from qemu_node.vlans import VID_MAX, VID_MIN, format_vlans, is_vid, parse_vlans, to_ranges

VLAN_SETS = st.frozensets(st.integers(VID_MIN, VID_MAX), max_size=60)


def test_numbers_and_ranges_make_a_set() -> None:
    assert parse_vlans(["100-102", "300", " 7 "]) == {7, 100, 101, 102, 300}


def test_no_word_means_no_vlan() -> None:
    assert parse_vlans([]) == frozenset()


@pytest.mark.parametrize(
    "word",
    [
        "",
        "1",
        "0",
        "4095",
        "1-10",
        "100-4095",
        "200-100",
        "all",
        "1.5",
        "-5",
        "5-",
        "10,20",
        "٣",
        "2²",
    ],
)
def test_what_is_no_vlan_of_a_vm_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="is not a"):
        parse_vlans([word])


@given(VLAN_SETS)
def test_a_set_survives_being_written_and_read(vlans: frozenset[int]) -> None:
    text = format_vlans(vlans)
    assert parse_vlans(text.split(", ") if text else []) == vlans


@given(VLAN_SETS)
def test_ranges_are_few_ascending_and_apart(vlans: frozenset[int]) -> None:
    ranges = to_ranges(vlans)
    assert all(first <= last for first, last in ranges)
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(ranges))
    assert {vid for first, last in ranges for vid in range(first, last + 1)} == vlans


@given(st.text(max_size=12))
def test_any_text_is_vlans_or_refused(word: str) -> None:
    try:
        found = parse_vlans([word])
    except ConfigError:
        return
    assert found
    assert all(is_vid(vid) for vid in found)
