import pytest

from qemu_node.run.guestwatch import parse_secure_boot


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
