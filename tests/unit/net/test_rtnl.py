import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.rtnl import attribute, attributes, nested, pick, vlan_attributes

_ATTRIBUTES = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8)


def test_an_attribute_is_padded_to_four_bytes_and_says_its_own_length() -> None:
    assert attribute(3, b"ab") == struct.pack("=HH", 6, 3) + b"ab\0\0"
    assert attribute(3, b"") == struct.pack("=HH", 4, 3)


@given(_ATTRIBUTES)
def test_attributes_are_read_back_as_packed(values: list[tuple[int, bytes]]) -> None:
    packed = b"".join(attribute(kind, value) for kind, value in values)
    assert list(attributes(packed)) == values


def test_a_nested_attribute_is_read_by_its_type_without_the_flag() -> None:
    [(kind, inner)] = attributes(nested(26, attribute(2, b"abcd")))
    assert kind == 26
    assert list(attributes(inner)) == [(2, b"abcd")]


def test_what_is_wanted_is_picked_and_the_rest_is_not_looked_at() -> None:
    packed = attribute(3, b"ab") + attribute(4, b"cd") + attribute(5, b"ef")
    assert pick(packed, 5, 3) == {3: b"ab", 5: b"ef"}
    assert pick(packed + b"\xff" * 3, 3, 9) == {3: b"ab"}
    assert pick(b"", 3) == {}


@given(st.binary(max_size=80))
def test_any_bytes_are_read_without_end_or_error(data: bytes) -> None:
    assert sum(4 + len(value) for _, value in attributes(data)) <= len(data)


@pytest.mark.parametrize(
    ("ranges", "is_untagged", "expected"),
    [
        ([(30, 30)], True, [(0x6, 30)]),
        ([(30, 30)], False, [(0, 30)]),
        ([(30, 39), (50, 50)], False, [(0x8, 30), (0x10, 39), (0, 50)]),
        ([], False, []),
    ],
)
def test_vlans_are_named_by_single_numbers_and_ends_of_ranges(
    ranges: list[tuple[int, int]], is_untagged: bool, expected: list[tuple[int, int]]
) -> None:
    packed = b"".join(vlan_attributes(ranges, is_untagged=is_untagged))
    assert [struct.unpack("=HH", value) for kind, value in attributes(packed) if kind == 2] == (
        expected
    )
