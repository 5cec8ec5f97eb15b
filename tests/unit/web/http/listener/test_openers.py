import pytest

from qemu_node.web.http.listener.openers import (
    OPEN_MAX,
    OPEN_OF_ONE_MAX,
    OPENING_MAX,
    OPENING_OF_ONE_MAX,
    may_open,
    network_of,
)

ONE, OTHER = "192.0.2.1", "192.0.2.2"


@pytest.mark.parametrize(
    ("opening", "is_open", "is_accepted"),
    [
        ([], [], True),
        ([ONE] * (OPENING_OF_ONE_MAX - 1), [], True),
        ([ONE] * OPENING_OF_ONE_MAX, [], False),
        ([OTHER] * OPENING_OF_ONE_MAX, [], True),
        ([OTHER] * OPENING_MAX, [], False),
        ([], [ONE] * (OPEN_OF_ONE_MAX - 1), True),
        ([], [ONE] * OPEN_OF_ONE_MAX, False),
        ([], [OTHER] * OPEN_OF_ONE_MAX, True),
        ([], [OTHER] * OPEN_MAX, False),
    ],
)
def test_one_address_cannot_take_all_connections(
    opening: list[str], is_open: list[str], is_accepted: bool
) -> None:
    got = may_open(ONE, opening=opening, is_open=is_open, open_count=len(is_open))
    assert got is is_accepted


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:2::3", "2001:db8:0:1::/64"),
        ("fe80::1%br0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("nonsense:", "nonsense:"),
    ],
)
def test_a_customers_addresses_count_as_one(address: str, network: str) -> None:
    assert network_of(address) == network
