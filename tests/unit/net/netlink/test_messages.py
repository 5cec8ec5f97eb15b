import struct

import pytest

from qemu_node.net.netlink.messages import attribute, attributes, pick, set_up, vlan_attributes


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
