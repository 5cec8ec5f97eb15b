from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.netlink.messages import attribute, attributes, nested, pick

_ATTRIBUTES = st.lists(
    st.tuples(st.integers(0, 8) | st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8
)


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
