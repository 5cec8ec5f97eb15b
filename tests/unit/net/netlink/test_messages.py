import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.netlink.messages import (
    attribute,
    attributes,
    nested,
    pick,
    set_up,
    vlan_attributes,
)

_ATTRIBUTES = st.lists(
    st.tuples(st.integers(0, 8) | st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8
)


def test_an_attribute_is_padded_to_four_bytes_and_says_its_own_length() -> None:
    assert attribute(3, b"ab") == struct.pack("=HH", 6, 3) + b"ab\0\0"
    assert attribute(3, b"") == struct.pack("=HH", 4, 3)


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


@pytest.mark.parametrize("is_isolated", [True, False])
def test_a_port_gets_all_its_options_in_the_request_that_sets_it_up(is_isolated: bool) -> None:
    request = set_up(7, is_isolated=is_isolated)
    assert struct.unpack_from("=BxHiII", request.body) == (0, 0, 7, 1, 1)
    info = pick(pick(request.body[16:], 18)[18], 4, 5)
    assert info[4] == b"bridge\0"
    options = dict(attributes(info[5]))
    assert options[33] == bytes([is_isolated])
    assert options.keys() == {5, 8, 9, 25, 27, 30, 31, 33}


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


@given(
    st.one_of(
        st.binary(max_size=80),
        _ATTRIBUTES.map(lambda values: b"".join(attribute(*value) for value in values)),
    ),
    st.sets(st.integers(0, 8), min_size=1, max_size=4),
)
def test_what_is_picked_is_what_a_full_reading_finds(data: bytes, kinds: set[int]) -> None:
    read = list(attributes(data))
    picked = pick(data, *kinds)
    assert set(picked) == kinds & {kind for kind, _ in read}
    assert set(picked.items()) <= set(read)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_without_end_or_error(data: bytes) -> None:
    assert sum(4 + len(value) for _, value in attributes(data)) <= len(data)
