import pytest

from qemu_node.run.guestwatch import parse_secure_boot, useful_addresses


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x06\x00\x00\x00\x01", True),
        (b"\x06\x00\x00\x00\x00", False),
        (b"", None),
        (b"\x06\x00\x00\x00\x01\x01", None),
    ],
)
def test_secure_boot_is_the_byte_after_the_attributes(content: bytes, expected: object) -> None:
    assert parse_secure_boot(content) is expected


def test_addresses_that_lead_nowhere_are_dropped() -> None:
    given = ["fe80::1", "127.0.0.1", "::1", "2001:db8::1", "10.0.2.15/24", "0.0.0.0", "\x1b[2J"]
    assert useful_addresses(given) == ("10.0.2.15", "2001:db8::1")
